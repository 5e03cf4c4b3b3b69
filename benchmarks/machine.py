"""What a benchmark was measured with: one table for all of them."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def environment(*packages: str) -> dict[str, Any]:
    """Processor, load, versions and commit.

    Args:
        packages: whose versions matter beside the library's own; torch is told, with its number of
            threads, where it is in use.
    """
    torch = sys.modules.get("torch")
    return {
        "processor": cpu_name(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        **({"threads": torch.get_num_threads()} if torch else {}),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        **({"torch": torch.__version__} if torch else {}),
        **{name: version(name) for name in packages},
        "unix_cxr": version("unix-cxr"),
        "commit": commit(),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"
