"""A whole pipeline small enough for tests, with weights that do something everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unix_cxr.data.findings_text import all_texts
from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.converted import assemble
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.training.tokenizer import train_tokenizer

SIDE = 32


def build_pipeline() -> UniXPipeline:
    torch.manual_seed(7)
    tokenizer = train_tokenizer(all_texts(), 280)
    config = UniXConfig(
        text_config={
            "vocab_size": 280,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "attention_bias": True,
            "max_position_embeddings": 256,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "vision_use_head": False,
            "hidden_act": "gelu",
        },
        latent_channels=4,
        max_latent_size=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        begin_image_token_id=3,
        end_image_token_id=4,
        sampling={
            "num_inference_steps": 4,
            "shift": 1.5,
            "guidance_scale": 2.0,
            "guidance_interval": [0.4, 1.0],
            "guidance_renorm": "global",
            "image_size": SIDE,
        },
        known_findings=["Pneumonia"],
    )
    model = UniXModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            elif "norm" not in name and "o_proj" not in name:
                parameter.normal_(std=0.1)
    vae = build_autoencoder(
        channels=(8, 8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        image_channels=1,
        norm_groups=4,
        sample_size=SIDE,
    )
    pipeline = assemble(model.eval(), vae.eval(), tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def shared_pipeline() -> UniXPipeline:
    return build_pipeline()


@pytest.fixture
def pipeline(shared_pipeline: UniXPipeline) -> UniXPipeline:
    """The tiny pipeline with its own scheduler back in place."""
    from unix_cxr.models.sampling import euler_scheduler

    shared_pipeline.scheduler = euler_scheduler(shared_pipeline.defaults.shift)
    return shared_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(
    shared_pipeline: UniXPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    shared_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    path = tmp_path / "xray.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
