"""A recipe of seconds: synthetic 32 px films, networks of some ten thousand parameters."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unix_cxr.training.settings import Recipe, parse_recipe

COLUMNS = ("image", "split", "subset", "view", "labels", "patient_id", "sex", "age")


def write_films(root: Path, train: int = 6, dev: int = 3, side: int = 32) -> Path:
    """A folder with a table of made-up films: bright discs of a size that the label knows."""
    generator = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(train + dev):
        ill = index % 2 == 1
        y, x = np.mgrid[:side, :side] - side / 2 + generator.normal(size=(2, 1, 1))
        disc = np.hypot(x, y) < side / (3 if ill else 5)
        pixels = np.clip(disc * 150 + generator.normal(60, 10, (side, side)), 0, 255)
        name = f"film{index}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
        split = "train" if index < train else "dev"
        label = "Bacterial Pneumonia|Pneumonia" if ill else "Normal"
        rows.append((name, split, "made-up", "AP", label, f"patient{index}", "", "pediatric"))
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return root


def stage(name: str, kind: str, trains: list[str], **changes: Any) -> dict[str, Any]:
    objective: dict[str, Any] = {"kind": kind}
    if kind == "autoencoder":
        objective |= {"l1": 1.0, "kl": 1e-4, "structure": 1.0}
    if kind == "generation":
        objective |= {
            "caption_dropout": 0.3,
            "timestep_shift": 1.0,
            "understanding_gradient": 0.0,
            "augmented_copies": 2,
        }
    objective |= changes.pop("objective", {})
    return {
        "name": name,
        "objective": objective,
        "trains": trains,
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "schedule": "cosine",
        "betas": [0.9, 0.95],
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "precision": "float32",
        "augmentation": 1.0,
        "log_every": 1,
        "validate_every": 2,
        "checkpoint_every": 2,
    } | changes


UNDERSTANDING = ["model.vision.*", "model.connector.*", "model.language_model.*"]


def tree(root: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "seed": 3,
        "data": {"root": str(root), "subsets": ["made-up"], "image_size": 32},
        "autoencoder": {
            "channels": [4, 4, 4, 4, 8],
            "layers_per_block": 1,
            "latent_channels": 2,
            "image_channels": 1,
            "norm_groups": 2,
        },
        "model": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "head_dim": 8,
            "vocabulary_size": 300,
            "vision_hidden_size": 16,
            "vision_intermediate_size": 24,
            "vision_layers": 1,
            "vision_heads": 2,
            "vision_patch_size": 16,
            "max_latent_size": 2,
        },
        "sampling": {"num_inference_steps": 2, "shift": 1.0},
        "stages": [
            stage("autoencoder", "autoencoder", ["vae.*"]),
            stage("understanding", "understanding", UNDERSTANDING),
            stage("generation", "generation", ["model.generation.*"]),
        ],
    }


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"))


@pytest.fixture
def make_recipe(films: Path) -> Callable[..., Recipe]:
    """The tiny recipe; keyword arguments replace top-level keys, stage names change stages."""

    def make(**changes: Any) -> Recipe:
        content = tree(films)
        for key, value in changes.items():
            stages = [entry for entry in content["stages"] if entry["name"] == key]
            if stages:
                stages[0] |= value
            elif isinstance(value, dict):
                content[key] |= value
            else:
                content[key] = value
        return parse_recipe(content, "the tiny recipe")

    return make
