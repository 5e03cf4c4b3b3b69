"""A run that ends without a word when its last stage has taken so many steps, as if it were killed.

python -m tests.training.stopping RECIPE OUT STEP
"""

import sys
from typing import Any

import torch

from unix_cxr.training.loop import Trainer
from unix_cxr.training.recipe import run_recipe
from unix_cxr.training.settings import load_recipe


class _KilledError(Exception):
    pass


def main(path: str, out: str, last: int) -> None:
    recipe = load_recipe(path)
    take_step = Trainer._step

    def step(self: Trainer, batch: Any) -> dict[str, float]:
        if (self.stage.name, self.step) == (recipe.stages[-1].name, last):
            raise _KilledError
        return take_step(self, batch)

    Trainer._step = step  # type: ignore[method-assign]  # the process does nothing else
    try:
        run_recipe(recipe, out)
    except _KilledError:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return
    raise SystemExit(f"the stage never came to step {last}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
