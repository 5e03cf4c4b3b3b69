"""A recipe is strict: what is unknown or wrong is named with its key and the known ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from unix_cxr.training.identity import changed_keys
from unix_cxr.training.settings import load_recipe, parse_recipe

from .conftest import tree


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree(tmp_path)), encoding="utf-8")
    return path


def test_a_recipe_is_read_and_stored_without_loss(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert parse_recipe(tree(recipe_file.parent), "tree") == recipe
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("data.root=/xrays", lambda r: r.data.root == "/xrays"),
        ("data.subsets=[a, b]", lambda r: r.data.subsets == ("a", "b")),
        ("stages.1.steps=7", lambda r: r.stages[1].steps == 7),
        ("stages.generation.steps=7", lambda r: r.stage("generation").steps == 7),
        ("stages.generation.objective.caption_dropout=0.5", lambda r: True),
        ("stages.generation.freezes=[model.generation.embedding.*]", lambda r: True),
    ],
)
def test_overrides_reach_every_key(recipe_file: Path, override: str, read: Any) -> None:
    recipe = load_recipe(recipe_file, [override])
    assert recipe != load_recipe(recipe_file)
    assert read(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root", r"override 'data\.root' must look like key\.subkey=value"),
        ("date.root=x", r"unknown key 'date'; known keys here: \['autoencoder', 'data'"),
        ("data.rot=x", r"data\.rot: unknown key; known keys here: \['root', 'kind', 'subsets'"),
        (
            "stages.drawing.steps=1",
            r"no entry 'drawing'; give a number below 3, or one of \['autoencoder', ",
        ),
        ("stages.steps=1", r"'steps' is no key of a list; name an entry before it"),
        ("stages.0.step=1", r"stages\.0\.step: unknown key; known keys here: \['name', 'obj"),
        ("stages.0.steps=0", r"stages\.0\.steps: .*greater than or equal to 1 \(got 0\)"),
        ("stages.0.steps=many", r"stages\.0\.steps: .*valid integer.*\(got 'many'\)"),
        ("stages.0.schedule=linear", r"stages\.0\.schedule: .*'constant' or 'cosine'.*'linear'"),
        ("stages.0.objective.l2=1", r"objective\.autoencoder\.l2: unknown key; known .*'l1'"),
        ("stages.0.objective.kind=magic", r"stages\.0\.objective: .*'magic'"),
        ("stages.0.trains=[]", r"stages\.0\.trains: .*at least 1 item"),
        ("data.image_size=16", r"data\.image_size: .*greater than or equal to 32 \(got 16\)"),
        ("name=[", r"override 'name=\[': '\[' is no YAML value"),
        ("learning_rate=1", r"learning_rate: unknown key; known keys here: \['name', 'seed'"),
    ],
)
def test_wrong_overrides_are_named(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must hold keys such as name, data and stages; it holds None"),
        ("- a list", r"must hold keys such as name"),
        ("name: [", r"tiny\.yaml is not valid YAML"),
        ("name: tiny", r"(?s)tiny\.yaml:.*seed: Field required.*stages: Field required"),
    ],
)
def test_files_that_are_no_recipe_are_named(recipe_file: Path, text: str, message: str) -> None:
    recipe_file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")


def test_every_problem_of_a_recipe_is_told_at_once(recipe_file: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)stages\.0\.steps.*stages\.1\.batch_size"):
        load_recipe(recipe_file, ["stages.0.steps=0", "stages.1.batch_size=0"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=9", {"autoencoder", "understanding", "generation"}),
        ("data.limit=2", {"autoencoder", "understanding", "generation"}),
        ("data.root=/elsewhere", set()),
        ("sampling.shift=2.0", set()),
        ("name=other", set()),
        ("model.layers=3", {"understanding", "generation"}),
        ("autoencoder.latent_channels=4", {"autoencoder", "generation"}),
        ("stages.understanding.steps=9", {"understanding"}),
        ("stages.understanding.log_every=9", set()),
        ("stages.generation.objective.caption_dropout=0.5", {"generation"}),
        ("stages.generation.allow_random=true", set()),
    ],
)
def test_a_stage_is_another_where_the_change_reaches_its_weights(
    recipe_file: Path, override: str, expected: set[str]
) -> None:
    before, after = load_recipe(recipe_file), load_recipe(recipe_file, [override])
    changed = {
        stage.name
        for stage in after.stages
        if changed_keys(before.model_dump_json(), after.model_dump_json(), stage)
    }
    assert changed == expected


def test_a_stored_recipe_of_before_a_key_existed_is_read(recipe_file: Path) -> None:
    import json

    recipe = load_recipe(recipe_file)
    old = json.loads(recipe.model_dump_json())
    for stage in old["stages"]:
        del stage["freezes"], stage["allow_random"]
    assert changed_keys(json.dumps(old), recipe.model_dump_json(), recipe.stages[0]) == []


@pytest.mark.parametrize("stored", ["", "{}", '{"name": "tiny", "epochs": 3}'])
def test_a_stored_recipe_that_cannot_be_read_is_named(recipe_file: Path, stored: str) -> None:
    recipe = load_recipe(recipe_file)
    with pytest.raises(ValueError, match="stored recipe is not one that this version reads"):
        changed_keys(stored, recipe.model_dump_json(), recipe.stages[0])
