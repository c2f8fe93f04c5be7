"""Define charts as values in readable units; ``html`` draws them.

Bars compare one quantity between precisions; curves show a quantity over the steps. Each chart contains its numbers,
so that a table can be shown next to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS = 240  # more than a screen resolves; longer curves are thinned to this number


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar. ``kind`` is ``amp`` or ``fp32``, which selects its style; ``shown`` is its value as text."""

    label: str
    value: float
    shown: str
    kind: str = "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Bars from zero; ``said`` describes the chart in one sentence for screen readers."""

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
    """One line over the steps; a value that isn't finite leaves a gap."""

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
        """The lower end of the axis: zero, or the lowest value if it is negative."""
        return min([0.0, *self._finite()])

    @property
    def steps(self) -> int:
        """The number of steps of the longest line."""
        return max((len(curve.values) for curve in self.curves), default=0)

    def _finite(self) -> list[float]:
        return [value for curve in self.curves for value in curve.values if math.isfinite(value)]

    def paths(self) -> tuple[str, ...]:
        """Return the ``d`` attribute of each line as an SVG path, in a box of 100 by 100."""
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
    """Return at most ``POINTS`` positions, including the first and the last."""
    if count <= POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (POINTS - 1)) for i in range(POINTS)})


Chart = BarChart | CurveChart
