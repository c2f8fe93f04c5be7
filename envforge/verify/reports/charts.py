"""Charts as values, in the units that people read; ``html`` draws them.

Bars compare one quantity between precisions; curves show a quantity over the steps. Each chart carries its numbers, so
that a table can stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS = 240  # more than a screen tells apart; a longer curve is thinned to these


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar. ``kind`` is ``amp`` or ``fp32``, which decides how it looks; ``shown`` is its value in words."""

    label: str
    value: float
    shown: str
    kind: str = "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Bars from zero; ``said`` is the chart in one sentence, for those who cannot see it."""

    title: str
    said: str
    bars: tuple[Bar, ...]

    @property
    def widths(self) -> tuple[float, ...]:
        """The length of each bar, in percent of the longest."""
        longest = max((bar.value for bar in self.bars if math.isfinite(bar.value)), default=0.0)
        return tuple(_percent(bar.value, longest) for bar in self.bars)


def _percent(value: float, longest: float) -> float:
    if not math.isfinite(value) or longest <= 0 or value <= 0:
        return 0.0
    return round(100 * value / longest, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line over the steps; a value that is not finite leaves a gap."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveChart:
    """Lines on common axes, with the first step on the left."""

    title: str
    said: str
    curves: tuple[Curve, ...]

    @property
    def top(self) -> float:
        """The upper end of the axis."""
        return max(self._finite(), default=1.0)

    @property
    def bottom(self) -> float:
        """The lower end of the axis: zero, unless a value lies below it."""
        return min([0.0, *self._finite()])

    @property
    def steps(self) -> int:
        """How many steps the longest line has."""
        return max((len(curve.values) for curve in self.curves), default=0)

    def _finite(self) -> list[float]:
        return [value for curve in self.curves for value in curve.values if math.isfinite(value)]

    def paths(self) -> tuple[str, ...]:
        """The ``d`` of each line, in a box of 100 by 100."""
        return tuple(self._path(curve.values) for curve in self.curves)

    def _path(self, values: Sequence[float]) -> str:
        height = (self.top - self.bottom) or 1.0
        parts, pen_is_down = [], False
        for position in _thinned(len(values)):
            value = values[position]
            if math.isfinite(value):
                x = 100 * position / max(self.steps - 1, 1)
                y = 100 - 100 * (value - self.bottom) / height
                parts.append(f"{'L' if pen_is_down else 'M'}{x:.2f} {y:.2f}")
            pen_is_down = math.isfinite(value)
        return "".join(parts)


def _thinned(count: int) -> list[int]:
    """At most ``POINTS`` positions, the first and the last among them."""
    if count <= POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (POINTS - 1)) for i in range(POINTS)})


Chart = BarChart | CurveChart
