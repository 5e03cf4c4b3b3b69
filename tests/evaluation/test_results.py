import pytest
import torch

from unix_cxr.evaluation.corpus_metric import Resampling, mean_metric, mean_statistics
from unix_cxr.evaluation.plugins import (
    ReportPairs,
    installed_metrics,
    measure_all,
)
from unix_cxr.evaluation.protocols import PROTOCOLS, STRICT, Protocol, protocol_named
from unix_cxr.evaluation.results import (
    MetricResult,
    MetricUnavailable,
    PerSample,
    by_name,
    signature,
)


def a_result(name="a"):
    return MetricResult(name, 0.5, None, 3, None, "a:1", comparable=True, higher_is_better=True)


class Plugin:
    name = "shouting"
    kind = "reports"

    def measure(self, data):
        values = torch.tensor([float(text.isupper()) for text in data.predictions])
        metric = mean_metric("shouting", comparable=False)
        return [metric.measure(mean_statistics(values), data.ids, data.groups, data.resampling)]


class ImagePlugin(Plugin):
    kind = "images"


class Point:
    def __init__(self, name, made):
        self.name, self.value, self.made = name, f"some_package.module:{name}", made

    def load(self):
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


def pairs():
    return ReportPairs(
        ("a", "b"), ("p", "q"), ("One.", "Two."), ("ONE.", "Two."), Resampling(50, unit="report")
    )


def test_plugins_are_found_by_kind_and_measured():
    points = [Point("b", Plugin), Point("a", ImagePlugin)]
    (metric,) = installed_metrics("reports", points)
    (result,) = metric.measure(pairs())
    assert result.value == 0.5
    assert isinstance(installed_metrics("images", points)[0], ImagePlugin)


def test_a_plugin_that_cannot_be_imported_says_so_when_it_is_measured():
    (metric,) = installed_metrics("images", [Point("gone", ModuleNotFoundError("no torchvision"))])
    with pytest.raises(MetricUnavailable, match=r"no torchvision.*reinstall some_package"):
        metric.measure(pairs())


@pytest.mark.parametrize(
    ("made", "message"), [(3, "must be a callable"), (dict, "lacks name, kind or measure")]
)
def test_what_is_no_metric_is_refused(made, message):
    with pytest.raises(TypeError, match=message):
        installed_metrics("reports", [Point("odd", made)])


def test_what_is_missing_is_listed_or_ends_the_run():
    def missing():
        raise MetricUnavailable("far", "pip install far")

    makers = {"near": lambda: [a_result()], "far": missing}
    results, skipped = measure_all(makers, "skip")
    assert [result.name for result in results] == ["a"]
    assert (skipped[0].metric, skipped[0].remedy) == ("far", "pip install far")
    with pytest.raises(MetricUnavailable, match="far is not available: pip install far"):
        measure_all(makers, "raise")
    with pytest.raises(ValueError, match=r"on_missing \('maybe'\) must be one of"):
        measure_all(makers, "maybe")


def test_a_signature_holds_every_fact_and_refuses_what_would_break_it():
    assert signature({"n": 3}).startswith("n:3|unix_cxr:")
    with pytest.raises(ValueError, match="cannot stand in a signature"):
        signature({"name": "a|b"})


def test_a_name_stands_for_one_number():
    with pytest.raises(ValueError, match="'a' was measured twice"):
        by_name([a_result(), a_result()])
    with pytest.raises(ValueError, match="1 ids for 2 values"):
        PerSample(("a",), (1.0, 2.0))


def test_presets_and_their_errors():
    assert protocol_named("strict") is STRICT
    assert PROTOCOLS["chexgenbench"].shards == 4
    with pytest.raises(ValueError, match=r"protocol \('best'\) must be one of"):
        protocol_named("best")
    with pytest.raises(ValueError, match=r"neighbours \(0\) must be at least 1"):
        Protocol("odd", neighbours=0)


def test_intervals_draw_whole_patients():
    values = torch.tensor([0.0] * 10 + [1.0] * 10)
    ids = [str(number) for number in range(20)]
    metric = mean_metric("share")
    by_image = metric.measure(mean_statistics(values), ids, ids, Resampling(400, unit="image"))
    two = ["a"] * 10 + ["b"] * 10
    by_patient = metric.measure(mean_statistics(values), ids, two, Resampling(400))
    assert by_image.value == by_patient.value == 0.5
    assert by_image.interval.low > 0.2
    assert (by_patient.interval.low, by_patient.interval.high) == (0, 1)
    assert by_patient.interval.method == "bootstrap by patient"
    assert "unit:patient" in by_patient.signature


def test_bad_statistics_are_named():
    metric = mean_metric("share")
    with pytest.raises(ValueError, match=r"1 samples are NaN or infinite \(first: 'b'\)"):
        metric.measure(mean_statistics(torch.tensor([1.0, torch.nan])), "ab", "ab")
    with pytest.raises(ValueError, match="equally many and at least one, got 1, 2 and 2"):
        metric.measure(torch.ones(1, 2), "ab", "ab")
    with pytest.raises(ValueError, match=r"replicates \(-1\)"):
        Resampling(-1)
    without = metric.measure(mean_statistics(torch.ones(2)), "ab", "ab", Resampling(0))
    assert without.interval is None
    assert without.as_dict()["interval"] is None
