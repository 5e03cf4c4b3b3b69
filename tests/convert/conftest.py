"""A made-up Janus checkpoint in both layouts."""

from pathlib import Path

import pytest
from transformers import JanusForConditionalGeneration

from tests.convert.janus import tiny_janus, write_janus


@pytest.fixture(scope="module")
def janus() -> JanusForConditionalGeneration:
    return tiny_janus()


@pytest.fixture(params=["transformers", "original"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(janus: JanusForConditionalGeneration, layout: str, tmp_path: Path) -> Path:
    return write_janus(tmp_path / "janus", janus, layout)
