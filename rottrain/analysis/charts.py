"""Line charts for pages: SVG inside the page, in its own colours, dark or light. Pure; needs no library.

Colours and fonts are page.css's, by class, since pages allow no style of an element's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 26, 40
_TICKS = 6
_NAME_WIDTH = 90


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is drawn as one line."""

    name: str
    points: Sequence[tuple[float, float]]
    """By x."""
    bands: Sequence[tuple[float, float]] = ()
    """The interval of each point, if it has one."""


def line_chart(lines: Sequence[Line], *, title: str, x: str, y: str, percent: bool = False) -> Markup:
    """Lines over one pair of axes; with `percent` y runs from 0 to 1 and is written as such."""
    xs = [point[0] for line in lines for point in line.points]
    ys = [point[1] for line in lines for point in line.points]
    across = _Axis.over(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    up = _Axis.over(0.0, 1.0 if percent else max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(across, up, percent=percent),
        _text("label", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x, anchor="middle"),
        _text("label", 4, 14, y),
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, number, across, up)
        place = _WIDTH - _RIGHT - _NAME_WIDTH * (len(lines) - 1 - number)
        parts.append(_text(f"name c{number}", place, 14, line.name, anchor="end"))
    return Markup("\n".join([*parts, "</svg>"]))  # noqa: S704 -- every text is escaped


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values -> places."""

    low: float
    high: float
    begin: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, low: float, high: float, begin: float, end: float) -> _Axis:
        """An axis that holds these values, with a few round ones to write down."""
        high = high if high > low else low + 1
        rough = (high - low) / _TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * round_ for round_ in (1, 2, 5, 10) if power * round_ >= rough)
        first = math.ceil(low / step - 1e-9)
        ticks = [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]
        return cls(low, high, begin, end, tuple(ticks))

    def __call__(self, value: float) -> float:
        return round(self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin), 1)


def _grid(across: _Axis, up: _Axis, *, percent: bool) -> list[str]:
    """Lines and numbers of both axes."""
    rows = [f'<path class="grid" d="M{_LEFT} {up(tick)}H{_WIDTH - _RIGHT}"/>' for tick in up.ticks]
    numbers = [
        _text("tick", _LEFT - 6, up(tick) + 4, f"{100 * tick:.0f}%" if percent else f"{tick:.6g}", anchor="end")
        for tick in up.ticks
    ]
    below = _HEIGHT - _BOTTOM + 16
    return (
        rows + numbers + [_text("tick", across(tick), below, f"{tick:.6g}", anchor="middle") for tick in across.ticks]
    )


def _drawn(line: Line, number: int, across: _Axis, up: _Axis) -> list[str]:
    """One line, its interval around it, and a point where points are few."""
    places = [(across(x), up(y)) for x, y in line.points]
    parts = []
    if line.bands:
        lower, upper = ([(x, up(band[end])) for (x, _), band in zip(places, line.bands, strict=True)] for end in (0, 1))
        corners = " ".join(f"{x},{y}" for x, y in [*upper, *reversed(lower)])
        parts.append(f'<polygon class="band c{number}" points="{corners}"/>')
    parts.append(f'<polyline class="line c{number}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    if all(right[0] - left[0] > 12 for left, right in pairwise(places)):
        parts += [f'<circle class="point c{number}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts


def _text(kind: str, x: float, y: float, content: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
