"""Curves of a run as inline SVG: several lines, marks of what befell it, a logarithmic scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from unix_cxr.evaluation.page.charts import short

_WIDTH: Final = 640
_HEIGHT: Final = 270
_LEFT: Final = 70
_RIGHT: Final = 14
_TOP: Final = 46
_BOTTOM: Final = 34
_ROW: Final = 16
_TICKS: Final = 4
_BINS: Final = 240
_FEW: Final = 40
_DECADES: Final = 1.5
_COLOURS: Final = 8

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        name: in the legend.
        points: step and value, from left to right.
        broken: drawn with dashes, as what is measured on the dev split is.
    """

    name: str
    points: Points
    broken: bool = False


@dataclass(frozen=True)
class Mark:
    """A step at which something happened.

    Args:
        step: where.
        about: what; shown when the pointer rests on it.
    """

    step: float
    about: str


def lines_chart(
    title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), until: float = 1.0
) -> Markup:
    """Curves over the steps; where they span more than 30 times, the scale is logarithmic.

    Values that are not finite are left out, and long curves are thinned so that their extremes
    stay. Empty where no curve has a point.

    Args:
        title: written above.
        lines: the curves; those without a point are left out.
        marks: steps at which something happened.
        until: the step that the picture reaches at least.
    """
    drawn = [
        Line(line.name, thinned(_finite(line.points)), line.broken)
        for line in lines
        if _finite(line.points)
    ]
    if not drawn:
        return Markup("")
    legend, rows = _legend(drawn)
    points = [point for line in drawn for point in line.points]
    frame = _Frame.of(points, until, _TOP + _ROW * (rows - 1))
    parts = [
        Markup('<figure><svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _HEIGHT, title
        ),
        _text(_LEFT, 16, title, "start", "label"),
        *_grid(frame),
        *(_mark(mark, frame) for mark in marks if frame.left <= mark.step <= frame.right),
        *(_curve(line, number, frame) for number, line in enumerate(drawn)),
        *legend,
        Markup("</svg></figure>"),
    ]
    return Markup("").join(parts)


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most some hundred points: of each part of a curve its lowest and its highest.

    >>> thinned([(0, 1.0), (1, 2.0)])
    [(0, 1.0), (1, 2.0)]
    """
    if len(points) <= 2 * _BINS:
        return list(points)
    kept: list[tuple[float, float]] = [points[0]]
    for part in range(_BINS):
        inside = points[part * len(points) // _BINS : (part + 1) * len(points) // _BINS]
        ends = (min(inside, key=lambda point: point[1]), max(inside, key=lambda point: point[1]))
        kept += sorted(set(ends))
    return [*kept, points[-1]]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class _Frame:
    """Where numbers lie on the picture."""

    left: float
    right: float
    bottom: float
    top: float
    logarithmic: bool
    ceiling: float

    @classmethod
    def of(cls, points: Points, until: float, ceiling: float) -> "_Frame":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = min(ys), max(ys)
        logarithmic = low > 0 and math.log10(high / low) > _DECADES
        if not logarithmic:
            room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            low, high = (max(0.0, low - room) if low >= 0 else low - room), high + room
        return cls(min(0.0, *xs), max(*xs, until), low, high, logarithmic, ceiling)

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high, at = self.bottom, self.top, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / ((high - low) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - self.ceiling - _BOTTOM)

    def values(self) -> list[float]:
        """Of the horizontal lines."""
        shares = [step / _TICKS for step in range(_TICKS + 1)]
        if self.logarithmic:
            return [self.bottom * (self.top / self.bottom) ** share for share in shares]
        return [self.bottom + (self.top - self.bottom) * share for share in shares]


def _grid(frame: _Frame) -> list[Markup]:
    parts = []
    for value in frame.values():
        y = frame.y(value)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        parts.append(_text(_LEFT - 6, y + 4, short(value), "end"))
    for step in range(_TICKS + 1):
        at = frame.left + (frame.right - frame.left) * step / _TICKS
        anchor = "end" if step == _TICKS else "middle"
        parts.append(_text(frame.x(at), _HEIGHT - _BOTTOM + 20, f"{at:,.0f}", anchor))
    return parts


def _mark(mark: Mark, frame: _Frame) -> Markup:
    x = f"{frame.x(mark.step):.1f}"
    return Markup(
        '<line x1="{}" y1="{}" x2="{}" y2="{}" class="mark"><title>{}</title></line>'
    ).format(x, frame.ceiling, x, _HEIGHT - _BOTTOM, mark.about)


def _curve(line: Line, number: int, frame: _Frame) -> Markup:
    colour = f"c{number % _COLOURS}"
    places = [(frame.x(x), frame.y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    broken = " broken" if line.broken else ""
    curve = Markup('<polyline points="{}" class="curve {}{}"></polyline>').format(
        path, colour, broken
    )
    if len(places) > _FEW:
        return curve
    dot = Markup('<circle cx="{}" cy="{}" r="2.5" class="dot {}"></circle>')
    dots = [dot.format(f"{x:.1f}", f"{y:.1f}", colour) for x, y in places]
    return Markup("").join([curve, *dots])


def _legend(lines: Sequence[Line]) -> tuple[list[Markup], int]:
    """Names and last values, in as many rows as they need."""
    parts: list[Markup] = []
    at, row = float(_LEFT), 0
    for number, line in enumerate(lines):
        last = short(line.points[-1][1])
        words = f"{line.name} {last}"
        colour = f"c{number % _COLOURS}{' broken' if line.broken else ''}"
        width = 34 + 7.2 * len(words)
        if at > _LEFT and at + width > _WIDTH:
            at, row = float(_LEFT), row + 1
        y = 31 + _ROW * row
        parts.append(_line(at, y, at + 14, y, f"curve {colour}"))
        parts.append(_text(at + 18, y + 4, words, "start"))
        at += width
    return parts, row + 1


def _line(x: float, y: float, x_end: float, y_end: float, kind: str) -> Markup:
    numbers = (f"{value:.1f}" for value in (x, y, x_end, y_end))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"></line>').format(*numbers, kind)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "number") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, kind, words
    )
