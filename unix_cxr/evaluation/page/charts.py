"""Charts as inline SVG: bars with intervals, and curves. No library, no script, no font."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

_BAR: Final = 22
_LABEL: Final = 190
_WIDTH: Final = 640
_HEIGHT: Final = 260
_MARGIN: Final = 46
_TICKS: Final = 4
_MANY: Final = 1000


@dataclass(frozen=True)
class Bar:
    """One bar with its interval.

    Args:
        label: written beside it.
        value: its length.
        low: lower end of the interval; None where there is none.
        high: upper end.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


def bar_chart(title: str, bars: Sequence[Bar], highest: float | None = None) -> Markup:
    """Horizontal bars from 0, one below the other, each with its number.

    Raises:
        ValueError: there are no bars.
    """
    if not bars:
        raise ValueError(f"{title}: a chart needs at least one bar")
    ends = [bar.value if bar.high is None else max(bar.value, bar.high) for bar in bars]
    top = highest or max(*ends, 1e-9)
    room = _WIDTH - _LABEL - 70
    height = _BAR * len(bars) + 8
    parts = [_open(title, _WIDTH, height)]
    for row, bar in enumerate(bars):
        y = row * _BAR + 4
        middle = y + _BAR / 2 - 2
        length = room * min(1.0, max(0.0, bar.value / top))
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end" class="label">{}</text>'
                '<rect x="{}" y="{}" width="{}" height="{}" class="bar"></rect>'
                '<text x="{}" y="{}" class="number">{}</text>'
            ).format(
                _LABEL - 8,
                middle + 4,
                bar.label,
                _LABEL,
                y,
                f"{length:.1f}",
                _BAR - 6,
                _WIDTH - 62,
                middle + 4,
                short(bar.value),
            )
        )
        if bar.low is not None and bar.high is not None:
            low, high = (_LABEL + room * min(1.0, max(0.0, x / top)) for x in (bar.low, bar.high))
            parts.append(_line(low, middle, high, middle, "whisker"))
    return Markup("").join([*parts, Markup("</svg>")])


def curve_chart(title: str, points: Sequence[Point], axes: tuple[str, str]) -> Markup:
    """Points joined by a line, with their intervals.

    Args:
        title: for readers that see no pictures.
        points: from left to right.
        axes: names of x and y.

    Raises:
        ValueError: fewer than two points.
    """
    if len(points) <= 1:
        raise ValueError(f"{title}: a curve needs at least two points, got {len(points)}")
    xs = [point.x for point in points]
    ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
    left, right = min(xs), max(xs)
    bottom, top = min(0.0, *ys), max(*ys, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1)
        up = (y - bottom) / ((top - bottom) or 1)
        return (
            _MARGIN + across * (_WIDTH - 2 * _MARGIN),
            _HEIGHT - _MARGIN - up * (_HEIGHT - 1.6 * _MARGIN),
        )

    parts = [_open(title, _WIDTH, _HEIGHT)]
    for step in range(_TICKS + 1):
        value = bottom + (top - bottom) * step / _TICKS
        (x, y), (end, _) = place(left, value), place(right, value)
        parts.append(_line(x, y, end, y, "grid"))
        parts.append(_text(x - 6, y + 4, short(value), "end"))
    for point in points:
        parts.append(_text(place(point.x, bottom)[0], _HEIGHT - _MARGIN + 18, short(point.x)))
    placed = [place(point.x, point.y) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    parts.append(Markup('<polyline points="{}" class="curve"></polyline>').format(path))
    for point, (x, y) in zip(points, placed, strict=True):
        if point.low is not None and point.high is not None:
            ends = place(point.x, point.low)[1], place(point.x, point.high)[1]
            parts.append(_line(x, ends[0], x, ends[1], "whisker"))
        dot = Markup('<circle cx="{}" cy="{}" r="4" class="dot"></circle>')
        parts.append(dot.format(f"{x:.1f}", f"{y:.1f}"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 6, axes[0]))
    parts.append(_text(_MARGIN, 12, axes[1], "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def short(value: float) -> str:
    """A number as a reader wants it: three digits, no exponent where it can be had.

    >>> short(0.12345), short(12), short(1234.5)
    ('0.123', '12', '1234')
    """
    if abs(value) >= _MANY:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _open(title: str, width: int, height: int) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        width, height, escape(title)
    )


def _line(x: float, y: float, x_end: float, y_end: float, kind: str) -> Markup:
    numbers = (f"{value:.1f}" for value in (x, y, x_end, y_end))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"></line>').format(*numbers, kind)


def _text(x: float, y: float, words: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="number">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, words
    )
