"""Teach nano an adapter on a folder of X-rays, then load it, weigh it, switch it, and merge it.

The X-rays are phantoms, and six steps teach nothing worth having: what counts is the way.
"""

import csv
import tempfile
from pathlib import Path

import torch
from PIL import Image

from unix_cxr import UniXPipeline
from unix_cxr.data.phantom import PhantomSource
from unix_cxr.training.lora import train_lora
from unix_cxr.training.lora_settings import LoraSettings

PROMPT = "AP chest radiograph of an adult. Pleural effusion."


def write_hospital(folder: Path, count: int) -> Path:
    """A folder as a hospital could hand it over: images and one table."""
    folder.mkdir()
    columns = ["image", "patient_id", "split", "view", "sex", "age", "findings"]
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for number, study in enumerate(PhantomSource(count, size=128)):
            name = f"{study.study_id}.png"
            Image.fromarray(study.image).save(folder / name)
            row = {key: getattr(study, key) for key in columns[3:]}
            split = "dev" if number == 0 else "train"
            table.writerow({"image": name, "patient_id": study.patient_id, "split": split, **row})
    return folder


def draw(pipe: UniXPipeline) -> torch.Tensor:
    out = pipe(PROMPT, seed=0, num_inference_steps=3, output_type="pt")
    return torch.as_tensor(out.images)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        films = write_hospital(root / "hospital", 5)
        settings = LoraSettings(
            preset="gen", rank=4, steps=6, batch_size=2, augmented_copies=1, validate_every=6
        )
        done = train_lora("nano", films, root / "run", settings)
        print(done.plan.text())
        print(done.text())

        pipe = UniXPipeline.from_pretrained("nano")
        pipe.set_progress_bar_config(disable=True)
        plain = draw(pipe)
        pipe.load_adapter(root / "run/adapter", name="icu")
        adapted = draw(pipe)
        print(f"with the adapter pixels move by {float((adapted - plain).abs().mean()):.4f}")
        pipe.set_adapters(["icu"], weights=[0.5])
        print(f"with half of it by {float((draw(pipe) - plain).abs().mean()):.4f}")
        pipe.disable_adapters()
        print("without it, bit for bit as before:", torch.equal(draw(pipe), plain))

        pipe.set_adapters(["icu"])
        pipe.merge_adapters()
        merged = draw(pipe)
        pipe.save_pretrained(root / "merged")
        print(f"merged differs from beside by {float((merged - adapted).abs().max()):.1e}")
        pipe.unmerge_adapters()
        pipe.disable_adapters()
        print("taken out, bit for bit as before:", torch.equal(draw(pipe), plain))


if __name__ == "__main__":
    main()
