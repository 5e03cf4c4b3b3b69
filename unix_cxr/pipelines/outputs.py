"""What the pipeline returns."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.utils import BaseOutput

from unix_cxr.files import sha256
from unix_cxr.pipelines.marking import prompt_hash, save_synthetic_png


@dataclass
class XRayOutput(BaseOutput):  # type: ignore[misc]  # diffusers is untyped
    """Drawn X-rays and how they came about.

    Args:
        images: PIL images in mode "L", an array [i, h, w], or a tensor [i, 1, h, w] or of latents.
        seeds: seed of each image.
        prompts: prompt of each image.
        network_calls: calls of the network per image; a guided pair counts once.
        model_id: name or folder of the checkpoint.
        version: of the library.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    network_calls: int
    model_id: str
    version: str

    def facts(self, index: int, *, with_prompt: bool = False) -> dict[str, object]:
        """What is written into the file of an image."""
        prompt = self.prompts[index]
        facts: dict[str, object] = {
            "model": self.model_id,
            "version": self.version,
            "seed": self.seeds[index],
            "network_calls": self.network_calls,
            "prompt_sha256": prompt_hash(prompt),
        }
        return facts | ({"prompt": prompt} if with_prompt else {})

    def save(self, folder: str | Path, *, with_prompt: bool = False) -> list[Path]:
        """Write every image as a PNG marked synthetic, and a manifest.jsonl beside them.

        Args:
            folder: is made where it does not exist.
            with_prompt: write the prompts too; they may name a patient, so they are not by default.

        Raises:
            TypeError: the output holds no PIL images.
        """
        if not isinstance(self.images, list):
            raise TypeError(
                "only PIL images can be saved; call the pipeline with output_type='pil'"
            )
        folder = Path(folder)
        paths = []
        for index, image in enumerate(self.images):
            facts = self.facts(index, with_prompt=with_prompt)
            name = f"xray-{str(facts['prompt_sha256'])[:8]}-seed-{self.seeds[index]}.png"
            path = folder / name
            save_synthetic_png(image, path, facts)
            paths.append(path)
            row = {"file": name, "sha256": sha256(path)} | facts
            with (folder / "manifest.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return paths


@dataclass
class ReportOutput(BaseOutput):  # type: ignore[misc]  # diffusers is untyped
    """Written reports.

    Args:
        reports: one text per image.
        model_id: name or folder of the checkpoint.
        version: of the library.
    """

    reports: list[str]
    model_id: str
    version: str
