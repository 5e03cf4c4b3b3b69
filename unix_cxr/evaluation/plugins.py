"""Metrics of other packages: found by entry point, measured like our own, absent without harm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, Protocol, get_args, runtime_checkable

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.results import MetricResult, MetricUnavailable, Skipped

GROUP: Final = "unix_cxr.metrics"
"""Entry points of this group give metrics."""

OnMissing = Literal["skip", "raise"]
Kind = Literal["reports", "images"]


@dataclass(frozen=True)
class ReportPairs:
    """What a metric of reports gets.

    Args:
        ids: of the pairs.
        groups: patients, for intervals.
        references: true texts.
        predictions: written texts; an empty one must count as zero.
        resampling: the bootstrap.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    references: tuple[str, ...]
    predictions: tuple[str, ...]
    resampling: Resampling

    def __post_init__(self) -> None:
        counts = {len(self.ids), len(self.groups), len(self.references), len(self.predictions)}
        if len(counts) != 1 or not self.ids:
            raise ValueError(
                f"{len(self.ids)} ids, {len(self.groups)} groups, {len(self.references)} "
                f"references and {len(self.predictions)} predictions; give one of each per pair"
            )


@runtime_checkable
class Metric(Protocol):
    """A metric of another package.

    An entry point of the group `unix_cxr.metrics` names a callable without arguments (such as a
    class) that returns one.
    """

    name: str
    kind: Kind
    """What `measure` gets: "reports" a `ReportPairs`, "images" an `ImageComparison`."""

    def measure(self, data: Any) -> Sequence[MetricResult]:  # noqa: ANN401 - by kind
        """The numbers.

        Raises:
            MetricUnavailable: a package or weights are absent; never downloads them.
        """
        ...


def installed_metrics(kind: Kind, points: Iterable[EntryPoint] | None = None) -> list[Metric]:
    """The installed plug-ins of one kind, in the order of their names.

    One that cannot be imported is there under both kinds, and says so when it is measured.

    Args:
        kind: "reports" or "images".
        points: the entry points; the installed ones where None.

    Raises:
        TypeError: a plug-in is no `Metric`; the message names it.
    """
    found = sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: p.name)
    metrics = [_made(point) for point in found]
    return [metric for metric in metrics if isinstance(metric, _Absent) or metric.kind == kind]


def measure_all(
    makers: Mapping[str, Callable[[], Sequence[MetricResult]]], on_missing: OnMissing
) -> tuple[list[MetricResult], list[Skipped]]:
    """Call each measurement; those that lack something are listed, or end the run.

    Args:
        makers: measurements by name, in order.
        on_missing: "skip" lists what is missing, "raise" stops at the first.

    Raises:
        MetricUnavailable: something is missing and `on_missing` is "raise".
        ValueError: `on_missing` is neither.
    """
    if on_missing not in get_args(OnMissing):
        raise ValueError(f"on_missing ({on_missing!r}) must be one of {get_args(OnMissing)}")
    results: list[MetricResult] = []
    skipped: list[Skipped] = []
    for name, measure in makers.items():
        try:
            results.extend(measure())
        except MetricUnavailable as error:
            if on_missing == "raise":
                raise
            skipped.append(Skipped(name, error.remedy))
    return results, skipped


def _made(point: EntryPoint) -> Metric:
    try:
        maker = point.load()
    except ImportError as error:
        package = point.value.split(":")[0].split(".")[0]
        return _Absent(point.name, f"it cannot be imported ({error}); reinstall {package}")
    if not callable(maker):
        raise TypeError(
            f"entry point {point.name!r} of {GROUP} is {type(maker).__name__}; it must be a "
            "callable that returns a metric, such as a class"
        )
    metric = maker()
    if not isinstance(metric, Metric):
        raise TypeError(
            f"entry point {point.name!r} of {GROUP} gave {type(metric).__name__}, which lacks "
            "name, kind or measure"
        )
    return metric


class _Absent:
    """Stands for a plug-in that cannot be imported."""

    kind: Kind = "reports"

    def __init__(self, name: str, remedy: str) -> None:
        self.name, self.remedy = name, remedy

    def measure(self, data: Any) -> Sequence[MetricResult]:  # noqa: ANN401 - by protocol
        raise MetricUnavailable(self.name, self.remedy)
