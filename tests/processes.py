"""Several processes on one machine, as `torchrun` starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest


def starter(processes: int) -> list[str]:
    """The start of a command for so many processes; each start finds its own free port."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*run, f"--nproc-per-node={processes}"]


def run_processes(
    command: Sequence[str], *, timeout: float = 500, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run on the CPU to the end; a failure shows what the processes said."""
    ran = subprocess.run(
        [*command],
        env=os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if ran.returncode != 0:
        pytest.fail(f"status {ran.returncode} of {' '.join(command)}:\n{ran.stderr[-6000:]}")
    return ran
