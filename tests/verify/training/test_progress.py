"""Test the progress of training: one line per measurement, and an estimate while one runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from envforge.verify.training.facts import MEASUREMENTS
from envforge.verify.training.observe import MeasurementProgress

MEASURES = ("device", "matmul", "learning", "control")


@dataclass
class Run:
    """A run whose clock is moved by hand."""

    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = MeasurementProgress(
            device="cpu", measures=MEASURES, say=self.lines.append, clock=lambda: self.now
        )

    def measure(self, name: str, seconds: float) -> None:
        self.progress.hear({"event": "start", "measure": name})
        self.now += seconds
        self.progress.hear({"event": "value", "measure": name})


def test_progress_names_each_measurement_once() -> None:
    run = Run()
    run.measure("device", 1)
    run.measure("matmul", 1)
    assert run.lines == [f"cpu 1/4: {MEASUREMENTS['device'].text}", f"cpu 2/4: {MEASUREMENTS['matmul'].text}"]


@pytest.mark.parametrize(
    ("share", "line"), [(0.0, "(10 s)"), (0.5, "(10 s, about 25 s left)"), (0.05, "(10 s, about 6 min left)")]
)
def test_progress_estimates_the_time_left_from_the_updates(share: float, line: str) -> None:
    run = Run()
    run.measure("device", 3)
    run.measure("matmul", 1)
    run.progress.hear({"event": "start", "measure": "learning"})
    if share:
        run.progress.hear({"event": "update", "number": int(100 * share), "of": 100})
    run.now += 10
    run.progress.tick(14)
    assert run.lines[-1] == f"cpu 3/4: {MEASUREMENTS['learning'].text} {line}"


def test_progress_is_quiet_right_after_a_line() -> None:
    run = Run()
    run.progress.hear({"event": "start", "measure": "device"})
    run.now += 1
    run.progress.tick(5)
    assert len(run.lines) == 1


def test_progress_reports_a_measurement_that_fails() -> None:
    run = Run()
    run.progress.hear({"event": "start", "measure": "matmul"})
    run.progress.hear({"event": "raised", "measure": "matmul", "error": "x"})
    assert run.lines[-1] == f"cpu: {MEASUREMENTS['matmul'].text}: failed"
