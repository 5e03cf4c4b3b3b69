"""What learns is said once; a loss is a sum and a count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conftest import make_tiny_model
from unix_cxr.training.losses import LossTerm, weighted_sum
from unix_cxr.training.stages import learning_names, select_learning


@pytest.fixture
def module() -> nn.Module:
    return nn.ModuleDict({"model": make_tiny_model()})


def test_what_matches_learns_and_all_else_is_frozen(module: nn.Module) -> None:
    learning = select_learning(module, ["model.generation.*"])
    assert learning
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == name.startswith("model.generation.")
        assert (name in learning) == parameter.requires_grad


def test_output_biases_of_the_language_model_never_learn(module: nn.Module) -> None:
    for pattern in ("*", "model.language_model.*", "model.language_model.*.o_proj.*"):
        learning = select_learning(module, [pattern])
        assert any(name.endswith("self_attn.o_proj.weight") for name in learning)
        biases = [
            (name, parameter)
            for name, parameter in module.named_parameters()
            if "language_model" in name and name.endswith("o_proj.bias")
        ]
        assert len(biases) == 2
        assert all(name not in learning and not p.requires_grad for name, p in biases)
    assert any(name.endswith("out_proj.bias") for name in select_learning(module, ["*vision*"]))


def test_freezes_takes_away_what_trains_gives(module: nn.Module) -> None:
    learning = select_learning(module, ["model.vision.*"], ["model.vision.embeddings.*"])
    assert learning
    assert not any("embeddings" in name for name in learning)


@pytest.mark.parametrize(
    ("trains", "freezes", "message"),
    [
        (["generation.*"], [], r"'generation\.\*' matches no parameter; .*parts are \['model'\]"),
        (["model.*"], ["nothing.*"], r"'nothing\.\*' matches no parameter"),
        (["model.vision.*"], ["model.*"], r"leaves nothing to learn: freezes \['model\.\*'\]"),
        (["*self_attn.o_proj.bias"], [], r"leaves nothing to learn.*never learn"),
    ],
)
def test_patterns_that_match_nothing_are_refused(
    module: nn.Module, trains: list[str], freezes: list[str], message: str
) -> None:
    names = [name for name, _ in module.named_parameters() if "vision" not in name or freezes]
    with pytest.raises(ValueError, match=message):
        learning_names(names, trains, freezes)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.integers(1, 18))
def test_parts_of_a_batch_add_up(values: list[float], cut: int) -> None:
    elements = torch.tensor(values, dtype=torch.float64)
    cut = min(cut, len(values) - 1)
    whole = LossTerm.of(elements)
    parts = LossTerm.of(elements[:cut]) + LossTerm.of(elements[cut:])
    assert parts.count == whole.count
    torch.testing.assert_close(parts.mean, whole.mean)


def test_the_weighted_sum_is_one_of_means() -> None:
    terms = {"a": LossTerm(torch.tensor(6.0), 3), "b": LossTerm(torch.tensor(1.0), 2)}
    assert float(weighted_sum(terms, {"a": 2.0, "b": 10.0})) == 2 * 2 + 10 * 0.5


def test_wrong_terms_are_refused() -> None:
    term = LossTerm(torch.tensor(1.0), 1)
    with pytest.raises(ValueError, match="needs at least one element, not 0"):
        LossTerm(torch.tensor(1.0), 0)
    with pytest.raises(ValueError, match=r"terms \['a'\] and weights \['b'\] must agree"):
        weighted_sum({"a": term}, {"b": 1.0})
    with pytest.raises(ValueError, match=r"\['a'\] have more elements than their batch"):
        weighted_sum({"a": LossTerm(torch.tensor(1.0), 3)}, {"a": 1.0}, {"a": 2})


def test_a_part_of_a_batch_is_divided_by_the_whole_ones_count() -> None:
    part = {"a": LossTerm(torch.tensor(6.0), 3)}
    assert float(weighted_sum(part, {"a": 2.0}, {"a": 12})) == 2 * 6 / 12
