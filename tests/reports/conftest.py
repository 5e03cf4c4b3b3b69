"""Makes `scoring` importable, and finds what a stranger's clone lacks."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the repository."""
    folder = Path(os.environ.get("UNIX_CXR_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set UNIX_CXR_SHARED to the folder of shared data")
    return folder


@pytest.fixture(scope="session")
def openi() -> Path:
    """The archive or folder of the 3,955 Open-i reports."""
    named = os.environ.get("UNIX_CXR_OPENI")
    cached = Path.home() / ".cache" / "unix_cxr" / "NLMCXR_reports.tgz"
    path = Path(named) if named else cached
    if not path.exists():
        pytest.skip(
            "the Open-i reports are absent; put NLMCXR_reports.tgz from the torchxrayvision wheel "
            f"at {cached} or name it by UNIX_CXR_OPENI"
        )
    return path
