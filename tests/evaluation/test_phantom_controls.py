"""Controls on phantoms: the truth scores near one, what is exchanged does not."""

import math

import pytest
import torch

from unix_cxr.data.phantom import SIDED, measure_batch, render_batch, reports_of, stated
from unix_cxr.data.phantom.oracle_scoring import score_measured
from unix_cxr.evaluation.phantom_controls import (
    film_counts,
    fresh_phantoms,
    score_drawn,
    score_written,
)


@pytest.fixture(scope="module")
def phantoms() -> list:
    return fresh_phantoms(60)


@pytest.fixture(scope="module")
def films(phantoms: list) -> torch.Tensor:
    return torch.as_tensor(render_batch(phantoms, 64))


def test_true_films_have_the_side_and_mirrored_ones_do_not(
    phantoms: list, films: torch.Tensor
) -> None:
    true, mirrored = score_drawn(phantoms, films), score_drawn(phantoms, films.flip(-1))
    assert true.side_accuracy > 0.95
    assert true.found > 0.95
    assert true.imagined < 0.05
    assert mirrored.side_accuracy < 0.1
    assert mirrored.found > 0.8


def test_the_counting_is_the_oracles_own(phantoms: list, films: torch.Tensor) -> None:
    shown = films.roll(1, 0)  # found, missed, imagined, right and wrong: all occur
    counted = score_drawn(phantoms, shown).kinds
    assert counted == score_measured(phantoms, measure_batch(shown))
    assert sum(score.found for score in counted.values()) > 0
    assert sum(score.found - score.side_right for score in counted.values()) > 0


def test_films_of_other_prompts_do_not_pass(phantoms: list, films: torch.Tensor) -> None:
    assert score_drawn(phantoms, films.roll(1, 0)).side_accuracy < 0.5


def test_true_reports_score_one_and_exchanged_ones_do_not(phantoms: list) -> None:
    reports = [reports_of(phantom)[0] for phantom in phantoms]
    true = score_written(phantoms, reports)
    assert (true.micro_f1, true.macro_f1, true.sided_micro_f1, true.unknown) == (1, 1, 1, 0)
    assert score_written(phantoms, reports[1:] + reports[:1]).micro_f1 < 0.5
    assert score_written(phantoms, ["Nonsense."] * len(phantoms)).unknown == len(phantoms)
    assert score_written(phantoms, [""] * len(phantoms)).micro_f1 == 0


def test_a_wrong_side_costs_only_the_sided_score(phantoms: list) -> None:
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    reports = [
        " ".join(
            "-".join(swap.get(part, part) for part in word.split("-"))
            for word in reports_of(phantom)[0].replace(".", " .").split()
        )
        .replace(" .", ".")
        .replace("left ventricle", "right ventricle")
        for phantom in phantoms
    ]
    swapped = score_written(phantoms, reports)
    assert swapped.kinds == score_written(phantoms, [reports_of(p)[0] for p in phantoms]).kinds
    assert swapped.sided_micro_f1 == 0
    assert set(swapped.sided) == set(SIDED)


def test_numbers_must_agree(phantoms: list) -> None:
    with pytest.raises(ValueError, match="1 reports for 60 phantoms"):
        score_written(phantoms, ["No pneumothorax."])
    with pytest.raises(ValueError, match="0 films for 1 texts or phantoms; give one each"):
        film_counts([[]], [])
    (finding, *_) = next(phantom.findings for phantom in phantoms if phantom.findings)
    with pytest.raises(ValueError, match="a kind of finding once"):
        film_counts([[stated(finding), stated(finding)]], [[]])


def test_where_nothing_was_asked_for_there_is_no_share() -> None:
    phantom = next(one for one in fresh_phantoms(300) if not one.findings)
    found = score_drawn([phantom], torch.as_tensor(render_batch([phantom], 64)))
    assert math.isnan(found.side_accuracy)
    assert math.isnan(found.found)
    assert found.imagined < 1
