"""Describe charts, and derive those of a training.

Bars compare one quantity between precisions; curves show a quantity over the steps. Each chart contains its numbers,
so that a table can be shown next to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec import Struct

from envforge.verify.record import Record
from envforge.verify.training.facts import DeviceFacts, LearningFacts, Number, SpeedRun

POINTS = 240  # more than a screen resolves; longer curves are thinned to this number


class Bar(Struct, frozen=True, kw_only=True):
    """One bar. ``kind`` is ``amp`` or ``fp32``, which selects its style; ``shown`` is its value as text."""

    label: str
    value: float
    shown: str
    kind: str = "fp32"


class BarChart(Struct, frozen=True, kw_only=True):
    """Bars from zero; ``said`` describes the chart in one sentence for screen readers."""

    title: str
    said: str
    bars: tuple[Bar, ...]

    @property
    def widths(self) -> tuple[float, ...]:
        """The length of each bar, in percent of the longest."""
        # a measured time can be zero or, in a record from elsewhere, not a number
        values = [bar.value if math.isfinite(bar.value) else 0.0 for bar in self.bars]
        longest = max(values, default=0.0)
        return tuple(round(100 * value / longest, 2) if value > 0 else 0.0 for value in values)


class Curve(Struct, frozen=True, kw_only=True):
    """One line over the steps; a value that isn't finite leaves a gap."""

    label: str
    values: tuple[float, ...]


class CurveChart(Struct, frozen=True, kw_only=True):
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
        # an axis that starts at the lowest loss would exaggerate differences
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
        height = (self.top - self.bottom) or 1.0  # a constant loss has no height
        parts, pen_is_down = [], False
        last, shown = len(values) - 1, min(len(values), POINTS)
        # at most ``POINTS`` positions, including the first and the last
        for position in [round(number * last / max(shown - 1, 1)) for number in range(shown)]:
            value = values[position]
            if math.isfinite(value):
                x = 100 * position / max(self.steps - 1, 1)
                y = 100 - 100 * (value - self.bottom) / height
                parts.append(f"{'L' if pen_is_down else 'M'}{x:.2f} {y:.2f}")
            pen_is_down = math.isfinite(value)  # a gap shows that the loss was not finite
        return "".join(parts)


Chart = BarChart | CurveChart


class Measure(Struct, frozen=True, kw_only=True):
    """One number that can be compared between machines; ``shown`` is its value as text."""

    name: str
    value: float
    shown: str


def measures(record: Record) -> tuple[Measure, ...]:
    """Return the speeds in a record; an unusually high one matters as much as a low one."""
    if record.training is None:
        return ()
    found = [measure for device in record.training.devices for measure in _of_device(device)]
    collective = record.training.collective.value
    if collective is not None and collective.ranks > 1:  # a single process sends nothing
        found.append(_rate("all-reduce, bus bandwidth", collective.bus_bytes_per_s))
    return tuple(found)


def _of_device(device: DeviceFacts) -> Iterator[Measure]:
    name, rate, copies = device.device, device.throughput.value, device.transfer.value
    for run in _runs(device):
        yield Measure(name=f"{name}, {run.label}: step", value=run.step_s, shown=_milliseconds(run.step_s))
        if peak := run.peak_memory_bytes:
            yield Measure(name=f"{name}, {run.label}: peak memory", value=peak, shown=_gibibytes(peak))
    if rate is not None:
        shown = f"{rate.low_tflops:.1f} TFLOP/s"
        yield Measure(name=f"{name}, {rate.dtype} products", value=rate.low_tflops, shown=shown)
    if copies is not None:
        yield _rate(f"{name}, host to device", copies.to_device_bytes_per_s)
        yield _rate(f"{name}, device to host", copies.from_device_bytes_per_s)


def _rate(name: str, bytes_per_s: float) -> Measure:
    return Measure(name=name, value=bytes_per_s, shown=f"{bytes_per_s / 1e9:.1f} GB/s")


def charts(record: Record) -> tuple[Chart, ...]:
    """Return the charts of a record, or none without training facts."""
    if record.training is None:
        return ()
    return tuple(chart for device in record.training.devices for chart in _charts_of(device))


def _charts_of(device: DeviceFacts) -> Iterator[Chart]:
    name = f"{device.device} ({device.name})" if device.name else device.device
    if runs := _runs(device):
        where = f"{name}, batch of {runs[0].batch}"
        yield _step_times(where, runs)
        if any(run.peak_memory_bytes for run in runs):
            yield _memory(where, runs)
        yield _losses(f"Loss in each precision, {name}", [(run.label, run.losses) for run in runs])
    learning, control = device.learning.value, device.control.value
    if learning is not None:
        lines = [("true labels", learning.losses)]
        lines += [("shuffled labels (control)", control.losses)] if control is not None else []
        yield _losses(f"Loss of the smoke test, {name}", lines, learning)


def _runs(device: DeviceFacts) -> tuple[SpeedRun, ...]:
    return device.compare.value.runs if device.compare.value else ()


def _step_times(where: str, runs: Sequence[SpeedRun]) -> BarChart:
    # a record from elsewhere may state 0 s
    first, others = runs[0], runs[1:] if runs[0].step_s > 0 else ()
    against = " and ".join(f"{run.step_s / first.step_s:.2f} times the speed of {run.label}" for run in others)
    said = f"A step in {first.label} takes {_milliseconds(first.step_s)} (the median of {first.steps})"
    bars = tuple(_bar(run, run.step_s, _milliseconds(run.step_s)) for run in runs)
    return BarChart(title=f"Step time, {where}", said=said + (f"; that is {against}." if against else "."), bars=bars)


def _memory(where: str, runs: Sequence[SpeedRun]) -> BarChart:
    peaks = [(run, run.peak_memory_bytes or 0) for run in runs]
    bars = tuple(_bar(run, peak, _gibibytes(peak) if peak else "unknown") for run, peak in peaks)
    first = peaks[0][1]
    against = " and ".join(f"{1 - first / peak:.0%} less than {run.label}" for run, peak in peaks[1:] if first and peak)
    said = f"{runs[0].label} allocates at most {bars[0].shown}" + (f", {against}." if against else ".")
    return BarChart(title=f"Peak memory, {where}", said=said, bars=bars)


def _bar(run: SpeedRun, value: float, shown: str) -> Bar:
    return Bar(label=run.label, value=value, shown=shown, kind="fp32" if run.fp32 else "amp")


def _losses(
    title: str, lines: Sequence[tuple[str, Sequence[Number]]], learning: LearningFacts | None = None
) -> CurveChart:
    curves = tuple(
        Curve(label=label, values=tuple(math.nan if value is None else value for value in values))
        for label, values in lines
    )
    parts = [f"{curve.label}: {_course(curve.values)}" for curve in curves]
    skipped = f" {learning.skipped} of {learning.updates} updates were skipped." if learning is not None else ""
    return CurveChart(title=title, said="; ".join(parts) + "." + skipped, curves=curves)


def _course(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "no finite loss"
    gaps = len(values) - len(finite)
    return f"from {finite[0]:.3g} to {finite[-1]:.3g}" + (f", {gaps} not finite" if gaps else "")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _gibibytes(amount: int) -> str:
    return f"{amount / 2**30:.2f} GiB"
