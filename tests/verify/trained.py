"""Build sample facts of training on one GPU, with round numbers."""

from __future__ import annotations

from typing import Any

from envforge.base.process import ProcessEnd
from envforge.verify.record import Observed
from envforge.verify.training.facts import (
    CompareFacts,
    DeviceFacts,
    LearningFacts,
    SpeedRun,
    TrainingFacts,
    TransferFacts,
)
from envforge.verify.values import Report, Signal, Verdict
from tests.verify.made_up import EVIL, finding, report

GIB = 2**30


def run(precision: str, fp32: str | None, step_s: float, gib: float, losses: tuple[float | None, ...]) -> SpeedRun:
    return SpeedRun(
        precision=precision,
        fp32=fp32,
        step_s=step_s,
        steps=13,
        batch=64,
        peak_memory_bytes=int(gib * GIB),
        losses=losses,
    )


def learning(losses: tuple[float | None, ...]) -> LearningFacts:
    return LearningFacts(
        precision="fp16",
        updates=4,
        losses=losses,
        evaluation={},
        skipped=2,
        seconds=1.0,
        weights=10,
        weights_moved=10,
        weights_wild=0,
    )


def facts(*, slower: float = 1.0, name: str = "Tesla T4") -> TrainingFacts:
    """``slower`` multiplies the time of every step."""
    runs = (
        run("fp16", None, 0.04 * slower, 4, (2.0, None, 0.5)),
        run("fp32", "ieee", 0.1 * slower, 8, (2.0, 1.0, 0.5)),
        run("fp32", "tf32", 0.06 * slower, 8, (None, None)),
    )
    device = DeviceFacts(
        device="cuda:0",
        is_gpu=True,
        process=ProcessEnd(seconds=9.0, exit_code=0),
        asked=("compare",),
        name=name,
        compare=Signal(value=CompareFacts(runs=runs)),
        learning=Signal(value=learning((2.3, 1.0, 0.5, 0.2))),
        control=Signal(value=learning((2.3, 2.3, 2.3, 2.3))),
        transfer=Signal(value=TransferFacts(to_device_bytes_per_s=12e9 / slower, from_device_bytes_per_s=12e9)),
    )
    return TrainingFacts(python="python", devices=(device,))


def trained(**changes: Any) -> Report:
    """A report of that training, on a GPU whose name is full of markup."""
    observed = (Observed(what="training", seconds=9.0),)
    return report(
        finding("amp-speed", Verdict.INFO, question="training", group="speed"),
        observed=observed,
        training=facts(name=EVIL, **changes),
    )
