"""Test the plain progress lines of ``lock`` without a terminal."""

from __future__ import annotations

from envforge.cli.progress import PlainLines
from envforge.lock.request import LockStep


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_lines_are_seconds_apart_and_show_the_step() -> None:
    clock, written = Clock(), list[str]()
    lines = PlainLines(written.append, clock)
    lines.tick()
    lines.step(LockStep(text="solving for linux-64"))
    for _ in range(12):
        clock.now_s += 1
        lines.tick()
    lines.step(LockStep(text="hashing a.whl", done_bytes=0, total_bytes=3_000_000))
    lines.step(LockStep(text="hashing a.whl", done_bytes=1_500_000, total_bytes=3_000_000))
    clock.now_s += 3
    lines.tick()
    lines.tick()
    assert written == [
        "solving for linux-64",
        "solving for linux-64 (5 s)",
        "solving for linux-64 (10 s)",
        "hashing a.whl: 1.5 MB of 3.0 MB (3 s)",
    ]


def test_plain_lines_have_no_total_if_the_server_states_none() -> None:
    clock, written = Clock(), list[str]()
    lines = PlainLines(written.append, clock)
    lines.step(LockStep(text="hashing a.whl", done_bytes=1_000_000))
    clock.now_s += 60
    lines.tick()
    assert written == ["hashing a.whl", "hashing a.whl: 1.0 MB (60 s)"]
