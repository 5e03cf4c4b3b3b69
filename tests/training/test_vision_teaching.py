"""What reports state becomes a table, and the vision tower learns to tell it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unix_cxr.data.phantom.wording import PRESENT
from unix_cxr.data.studies import Study
from unix_cxr.training.batches import Share, generator_of, take
from unix_cxr.training.loop import Trainer
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe
from unix_cxr.training.statements import (
    spoken_of,
    statement_table,
    statements_of,
    teachable,
)
from unix_cxr.training.vision_teaching import (
    StatementBatch,
    StatementProbe,
    StatementSource,
    VisionObjective,
)

from .conftest import UNDERSTANDING, stage

MakeRecipe = Callable[..., Recipe]
TEACHES = ["model.vision.*", "model.connector.*"]


def study(**facts: Any) -> Study:
    return Study(image=np.zeros((2, 2), np.uint8), patient_id="a", **facts)


# -- statements ------------------------------------------------------------------------------


def test_a_finding_is_stated_with_its_side_and_severity() -> None:
    stated = statements_of(study(), "Moderate left pleural effusion. No pneumothorax.")
    assert stated == {
        "Pleural Effusion": True,
        "Pleural Effusion: left": True,
        "Pleural Effusion: moderate": True,
        "Pneumothorax": False,
    }


def test_a_device_is_stated_by_its_kind() -> None:
    stated = statements_of(study(), "Endotracheal tube in low position. No pacemaker.")
    devices = {"Support Devices": True, "Support Devices: endotracheal tube": True}
    assert stated.items() >= devices.items()
    assert "Support Devices: pacemaker" not in stated


def test_every_device_of_a_phantom_is_a_statement_of_its_own() -> None:
    kinds = {"tube": "endotracheal tube", "line": "central line", "pacemaker": "pacemaker"}
    for kind, device in kinds.items():
        for wording in PRESENT[kind]:
            text = wording.format(Side="Left", side="left", severity="low")
            named = {name for name in statements_of(study(), text) if name.endswith(device)}
            assert named == {f"Support Devices: {device}"}, text


def test_an_uncertain_finding_is_neither_present_nor_absent() -> None:
    assert statements_of(study(), "Possible pneumonia.")["Pneumonia"] is None


def test_a_studys_own_labels_outrank_its_text() -> None:
    own = study(labels=frozenset({"Edema"}), uncertain=frozenset({"Pneumothorax"}))
    stated = statements_of(own, "No pulmonary edema. No pneumothorax.")
    assert stated["Edema"] is True
    assert stated["Pneumothorax"] is None
    assert statements_of(own, "") == {"Edema": True, "Pneumothorax": None}


def test_only_statements_that_hold_often_and_not_always_are_taught() -> None:
    stated: list[dict[str, bool | None]] = [
        {"Edema": True, "Fracture": False, "Chest": True},
        {"Edema": True, "Chest": True},
        {"Hernia": True, "Chest": True},
    ]
    table = statement_table(stated, [""] * 3, spoken_of(stated, [""] * 3))
    assert table.names == ("Chest", "Edema", "Fracture", "Hernia")
    assert teachable(table, least=1) == ("Edema", "Hernia")
    with pytest.raises(ValueError, match=r"holds for 2 of 3 .*Chest: 3 and 0, .*objective.least"):
        teachable(table, least=2)


def test_what_a_collection_never_speaks_of_is_unknown() -> None:
    stated: list[dict[str, bool | None]] = [{"Edema": True}, {}, {"Pneumonia": None}, {}]
    subsets = ["one", "one", "two", "two"]
    table = statement_table(stated, subsets, spoken_of(stated, subsets))
    assert table.holds.tolist() == [[True, False], [False, False], [False, False], [False, False]]
    assert table.known.tolist() == [[True, False], [True, False], [False, False], [False, True]]


def test_side_and_severity_of_an_uncertain_finding_are_unknown() -> None:
    stated: list[dict[str, bool | None]] = [
        {"Edema": True, "Edema: severe": True},
        {"Edema": None},
        {"Edema": False},
    ]
    table = statement_table(stated, [""] * 3, spoken_of(stated, [""] * 3))
    assert table.known.tolist() == [[True, True], [False, False], [True, True]]


# -- the objective ---------------------------------------------------------------------------


def batch_of(recipe: Recipe, *, size: int = 6, statements: int = 3) -> StatementBatch:
    generator = generator_of(5)
    side = recipe.data.image_size
    return StatementBatch(
        pixel_values=torch.randn(size, 3, side, side, generator=generator),
        holds=torch.rand(size, statements, generator=generator) < 0.5,
        known=torch.rand(size, statements, generator=generator) < 0.7,
    )


def test_what_is_unknown_teaches_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))
    objective = VisionObjective(run.model, 3, seed=0)
    batch = batch_of(run.recipe)
    turned = StatementBatch(batch.pixel_values, batch.holds ^ ~batch.known, batch.known)
    assert objective.counts(batch) == {"statements": int(batch.known.sum())}
    loss = objective(batch)["statements"].mean
    assert torch.equal(loss, objective(turned)["statements"].mean)
    logits = objective.probe(run.model.image_tokens(batch.pixel_values))
    chosen = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[batch.known], batch.holds[batch.known].float()
    )
    torch.testing.assert_close(loss, chosen)


def test_parts_of_a_batch_add_up(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))
    objective = VisionObjective(run.model, 3, seed=0)
    batch = batch_of(run.recipe)
    counts = objective.counts(batch)
    whole = weighted_sum(objective(batch), objective.weights)
    parts = [
        weighted_sum(objective(take(batch, Share(part, 2))), objective.weights, counts)
        for part in range(2)
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_the_probe_finds_what_a_single_token_shows() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = StatementProbe(width=32, statements=2)
        optimizer = torch.optim.Adam(probe.parameters(), lr=0.05)
        losses = []
        for _ in range(150):
            tokens = 0.3 * torch.randn(64, 9, 32)
            holds = torch.rand(64, 2) < 0.5
            place = torch.randint(9, (64,))
            tokens[torch.arange(64), place, :2] += 4 * holds.float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                probe(tokens), holds.float()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.15 < losses[0]


# -- the stage -------------------------------------------------------------------------------


@pytest.fixture
def taught(make_recipe: MakeRecipe, films: Path) -> Callable[..., Recipe]:
    """A recipe whose vision tower is taught before it is read from."""

    def make(**changes: Any) -> Recipe:
        vision = stage("vision", "vision", TEACHES, objective={"least": 1}) | changes
        understanding = stage("understanding", "understanding", UNDERSTANDING)
        return make_recipe(stages=[vision, understanding])

    return make


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_the_stage_teaches_the_vision_tower_and_exports_no_probe(
    taught: MakeRecipe, tmp_path: Path
) -> None:
    recipe = taught()
    before = RecipeRun(recipe, tmp_path / "none", torch.device("cpu")).model.state_dict()
    run_recipe(recipe, tmp_path)
    after = weights(tmp_path / "vision")
    assert not [name for name in after if "probe" in name]
    assert after.keys() == weights(tmp_path / "understanding").keys()
    for name, value in after.items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith(("vision.", "connector.")), name


def test_the_probe_learns_with_the_tower(taught: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(taught(), tmp_path, torch.device("cpu"))
    stage = run.recipe.stage("vision")
    task = run.task(stage, run.data_of(stage))
    trainer = Trainer(
        task.objective, task.source, stage, tmp_path / "vision", recipe="", device=run.device
    )
    before = {name: value.clone() for name, value in task.objective.named_parameters()}
    trainer.run()
    moved = {
        name.split(".")[0]
        for name, value in task.objective.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved == {"probe", "model"}


def test_a_stopped_stage_ends_with_the_same_bits(
    taught: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = taught()
    run_recipe(recipe, tmp_path / "whole", stages=["vision"])
    step = Trainer._step

    def stop_at_three(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "stopped", stages=["vision"])
    monkeypatch.undo()
    run_recipe(recipe, tmp_path / "stopped", stages=["vision"])
    whole, ours = weights(tmp_path / "whole" / "vision"), weights(tmp_path / "stopped" / "vision")
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())


def test_it_must_not_train_what_it_does_not_run(taught: MakeRecipe, tmp_path: Path) -> None:
    recipe = taught(trains=["model.language_model.*"])
    with pytest.raises(ValueError, match=r"pattern 'model.language_model.\*' matches no parameter"):
        run_recipe(recipe, tmp_path)


def test_the_source_gives_the_same_batch_at_every_call(taught: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(taught(), tmp_path, torch.device("cpu"))
    made = [
        StatementSource(
            run.data.store("train"),
            run.data.store("dev"),
            run.processor,
            least=1,
            batch_size=4,
            augmentation=1.0,
            seed=3,
        )
        for _ in range(2)
    ]
    random.seed(1)
    first, second = made[0].batch(5), made[1].batch(5)
    assert torch.equal(first.pixel_values, second.pixel_values)
    assert torch.equal(first.holds, second.holds)
    assert {"Normal", "Bacterial Pneumonia"} <= set(made[0].statements)
    assert sum(len(part.holds) for part in made[0].validation()) == 3
