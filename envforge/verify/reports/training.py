"""Turn the measurements of training into charts and comparable numbers: AMP and fp32 per device, and the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envforge.verify.record import Record
from envforge.verify.reports.charts import Bar, BarChart, Chart, Curve, CurveChart
from envforge.verify.training.facts import DeviceFacts, LearningFacts, Number, SpeedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
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
    if collective is not None and collective.ranks > 1:
        found.append(_rate("all-reduce, bus bandwidth", collective.bus_bytes_per_s))
    return tuple(found)


def _of_device(device: DeviceFacts) -> Iterator[Measure]:
    for run in device.compare.value.runs if device.compare.value else ():
        name = f"{device.device}, {_precision(run)}"
        yield Measure(name=f"{name}: step", value=run.step_s, shown=_milliseconds(run.step_s))
        if run.peak_memory_bytes:
            yield Measure(
                name=f"{name}: peak memory", value=run.peak_memory_bytes, shown=_gibibytes(run.peak_memory_bytes)
            )
    if (rate := device.throughput.value) is not None:
        yield Measure(
            name=f"{device.device}, {rate.dtype} products",
            value=rate.low_tflops,
            shown=f"{rate.low_tflops:.1f} TFLOP/s",
        )
    if (copies := device.transfer.value) is not None:
        yield _rate(f"{device.device}, host to device", copies.to_device_bytes_per_s)
        yield _rate(f"{device.device}, device to host", copies.from_device_bytes_per_s)


def _rate(name: str, bytes_per_s: float) -> Measure:
    return Measure(name=name, value=bytes_per_s, shown=f"{bytes_per_s / 1e9:.1f} GB/s")


def charts(record: Record) -> tuple[Chart, ...]:
    """Return the charts of a record, or none without training facts."""
    if record.training is None:
        return ()
    return tuple(chart for device in record.training.devices for chart in _charts_of(device))


def _charts_of(device: DeviceFacts) -> Iterator[Chart]:
    name = f"{device.device} ({device.name})" if device.name else device.device
    runs = device.compare.value.runs if device.compare.value else ()
    if runs:
        yield _step_times(name, runs)
        if any(run.peak_memory_bytes for run in runs):
            yield _memory(name, runs)
        yield _losses(f"Loss in each precision, {name}", [(_precision(run), run.losses) for run in runs])
    learning, control = device.learning.value, device.control.value
    if learning is not None:
        lines = [("true labels", learning.losses)]
        lines += [("shuffled labels (control)", control.losses)] if control is not None else []
        yield _losses(f"Loss of the smoke test, {name}", lines, learning)


def _step_times(name: str, runs: Sequence[SpeedRun]) -> BarChart:
    bars = tuple(
        Bar(label=_precision(run), value=run.step_s, shown=_milliseconds(run.step_s), kind=_kind(run)) for run in runs
    )
    return BarChart(title=f"Step time, {name}, batch of {runs[0].batch}", said=_said_of_steps(runs), bars=bars)


def _said_of_steps(runs: Sequence[SpeedRun]) -> str:
    first, others = runs[0], [run for run in runs[1:] if runs[0].step_s > 0]
    against = " and ".join(f"{run.step_s / first.step_s:.2f} times the speed of {_precision(run)}" for run in others)
    said = f"A step in {_precision(first)} takes {_milliseconds(first.step_s)} (the median of {first.steps})"
    return f"{said}; that is {against}." if against else f"{said}."


def _memory(name: str, runs: Sequence[SpeedRun]) -> BarChart:
    bars = tuple(
        Bar(
            label=_precision(run),
            value=run.peak_memory_bytes or 0,
            shown=_gibibytes(run.peak_memory_bytes) if run.peak_memory_bytes else "unknown",
            kind=_kind(run),
        )
        for run in runs
    )
    first = runs[0].peak_memory_bytes
    against = [
        f"{1 - first / peak:.0%} less than {_precision(run)}"
        for run in runs[1:]
        if first and (peak := run.peak_memory_bytes)
    ]
    said = f"{_precision(runs[0])} allocates at most {bars[0].shown}" + (
        f", {' and '.join(against)}" if against else ""
    )
    return BarChart(title=f"Peak memory, {name}, batch of {runs[0].batch}", said=f"{said}.", bars=bars)


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


def _precision(run: SpeedRun) -> str:
    return f"fp32 ({run.fp32})" if run.fp32 else f"AMP {run.precision}"


def _kind(run: SpeedRun) -> str:
    return "fp32" if run.fp32 else "amp"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _gibibytes(amount: int) -> str:
    return f"{amount / 2**30:.2f} GiB"
