"""Build findings of the training checks.

A test compares the map with the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from envforge.verify.record import Record
from envforge.verify.training.facts import DeviceFacts, TrainingFacts
from envforge.verify.values import Check, Judgement, Signal, Verdict

Judge = Callable[[Record], Iterable[Judgement]]


def passed(observed: str, *, wanted: str = "", source: str = "", subject: str = "") -> Judgement:
    """Return a judgement: the check found what was expected."""
    return Judgement(verdict=Verdict.PASS, observed=observed, wanted=wanted, source=source, subject=subject)


def info(observed: str, *, source: str = "", subject: str = "") -> Judgement:
    """Return a judgement: a fact worth knowing."""
    return Judgement(verdict=Verdict.INFO, observed=observed, source=source, subject=subject)


def skipped(why: str, subject: str = "") -> Judgement:
    """Return a judgement: the check doesn't apply."""
    return Judgement(verdict=Verdict.SKIP, observed=why, subject=subject)


def unknown(signal: Signal[Any], what: str, subject: str = "", command: str = "") -> Judgement:
    """Return a judgement: the check applies, but its facts could not be read."""
    why = signal.unreadable or "not read"
    return Judgement(
        verdict=Verdict.UNKNOWN, observed=f"{what}: {why}", source=signal.source, subject=subject, command=command
    )


_LEARNING = ("learning",)

NEEDS_PROJECT = ("learning", "guard", "control", "scaler", "compare", "repeat", "compiled")
NEEDS: dict[str, tuple[str, ...]] = {
    "trains-on-gpu": ("device",),
    "process-died": ("device",),
    "low-precision": ("device",),
    "project-not-importable": ("project",),
    "matmul-wrong": ("matmul",),
    "convolution-wrong": ("convolution",),
    "attention-wrong": ("attention",),
    "bits-change": ("same_bits",),
    "gpus-disagree": ("same_bits",),
    "autocast-off": _LEARNING,
    "low-precision-unused": _LEARNING,
    "backward-in-autocast": _LEARNING,
    "loss-not-finite": _LEARNING,
    "loss-constant": _LEARNING,
    "gradients-missing": _LEARNING,
    "gradients-zero": _LEARNING,
    "weights-still": _LEARNING,
    "learning-stopped": _LEARNING,
    "loss-does-not-fall": _LEARNING,
    "metric-not-reached": _LEARNING,
    "smoke-thresholds": _LEARNING,
    "control-learns": ("learning", "control"),
    "non-finite-guard": ("learning", "guard"),
    "scaled-gradients-wrong": ("learning", "scaler"),
    "scaler-no-step": ("learning", "scaler"),
    "scaler-no-backoff": ("learning", "scaler"),
    "not-repeatable": ("repeat",),
    "resume-differs": ("repeat",),
    "amp-speed": ("compare",),
    "amp-differs": ("compare",),
    "speed-floor": ("throughput",),
    "throttled-under-load": ("throughput",),
    "slow-copies": ("throughput", "transfer"),
    "compile-fails": ("compiled",),
    "model-speed": ("models",),
}


OfDevice = Callable[[DeviceFacts], Judgement]


def on_training(judge: Callable[[TrainingFacts], Iterable[Judgement]]) -> Judge:
    """Return a function that judges a record, from one that judges the facts of training."""

    def look(record: Record) -> Iterable[Judgement]:
        if record.training is None:
            return (skipped("nothing was trained"),)
        return judge(record.training)

    return look


def on_each_device(judge: OfDevice) -> Judge:
    """Return a function that judges a record, from one that judges one device."""

    def look(facts: TrainingFacts) -> Iterator[Judgement]:
        if not facts.devices:
            yield skipped(f"nothing was measured: {facts.unreadable}")
        for device in facts.devices:
            yield replace(judge(device), subject=subject_of(device))

    return on_training(look)


def check_of_device(identity: str, title: str, why: str, judge: OfDevice, **more: Any) -> Check:
    """Return a check with one judgement per device; ``more`` are other fields of the check."""
    usual: dict[str, Any] = {"severity": Verdict.FAIL, "cost": "default"}
    values = usual | more | {"needs": NEEDS.get(identity, ())}
    return Check(id=identity, question="training", title=title, why=why, judge=on_each_device(judge), **values)


def subject_of(device: DeviceFacts) -> str:
    """Return the name of a device in findings."""
    return f"{device.device} {device.name}".strip()


def absent(device: DeviceFacts, measure: str, *, leads: bool = False) -> Judgement:
    """Return the judgement of a check whose measurement has no value.

    A measurement that wasn't requested is SKIP, and one that the process didn't reach is UNKNOWN. One that raised or
    killed the process fails the check that leads it; the other checks that need it are skipped.
    """
    signal: Signal[Any] = getattr(device, measure)
    if measure not in device.asked:
        return skipped("not measured at this depth" if device.asked else "nothing was measured")
    if device.project.value is None and measure in NEEDS_PROJECT:
        return skipped(f"the project was not usable: {device.project.unreadable}")
    if measure in device.raised or device.running == measure:
        if not leads:
            return skipped(f"the measurement `{measure}` did not finish")
        return Judgement(
            verdict=Verdict.FAIL,
            observed=f"{signal.unreadable}",
            wanted="a measurement without an error",
            source=signal.source,
        )
    return unknown(signal, f"no measurement `{measure}`")


def failed(observed: str, wanted: str, source: str = "", why: str = "", command: str = "") -> Judgement:
    """Return a judgement: training fails, or its results can't be trusted."""
    return Judgement(
        verdict=Verdict.FAIL, observed=observed, wanted=wanted, source=source, why=why, command=command or SMOKE
    )


def warned(observed: str, wanted: str, source: str = "", why: str = "", command: str = "") -> Judgement:
    """Return a judgement: training works, but worse than it should."""
    return Judgement(verdict=Verdict.WARN, observed=observed, wanted=wanted, source=source, why=why, command=command)


SMOKE = "envforge verify train --deep"
