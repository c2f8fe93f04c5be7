"""Without a terminal, progress is plain lines on stderr every few seconds, even if nothing advances."""

from __future__ import annotations

import threading

import click
import pytest

from envforge.cli.progress import _Lines, counted, duration


def test_line_of_bytes_shows_total_rate_and_time_left() -> None:
    lines = _Lines(quiet=True)
    lines.begin("downloading", None, "bytes")
    lines.enlarge(5_800_000_000)
    lines.advance(1_200_000_000)
    assert lines.line(30.0) == "downloading: 1.20 GB of 5.80 GB (40.0 MB/s, about 2 min left)"


def test_line_of_bytes_without_a_total_or_any_progress() -> None:
    lines = _Lines(quiet=True)
    lines.begin("downloading", None, "bytes")
    assert lines.line(30.0) == "downloading: 0.0 MB (30 s)"
    lines.advance(3_000_000)
    assert lines.line(30.0) == "downloading: 3.0 MB (0.1 MB/s)"


def test_line_of_packages_counts_them() -> None:
    lines = _Lines(quiet=True)
    lines.begin("linking", 1, "packages")
    assert lines.line(5.0) == "linking: 0 of 1 package (5 s)"


def test_lines_appear_while_nothing_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    twice = threading.Event()

    def echo(text: str, *, err: bool) -> None:
        said.append(text)
        if len(said) == 2:
            twice.set()

    monkeypatch.setattr(click, "echo", echo)
    lines = _Lines(quiet=False, every_s=0.01)
    lines.begin("installing wheels", 2, "packages")
    assert twice.wait(timeout=30)
    lines.end()
    assert all(text.startswith("installing wheels: 0 of 2 packages (") for text in said)
    count = len(said)
    assert lines._clock is None
    assert len(said) == count


def test_quiet_progress_starts_no_thread() -> None:
    lines = _Lines(quiet=True, every_s=0.001)
    lines.begin("linking", 1, "packages")
    assert lines._clock is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (89.0, "89 s"), (170.0, "3 min"), (3600.0, "1 h 0 min"), (3900.0, "1 h 5 min")]
)
def test_duration_is_rounded_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_is_singular() -> None:
    assert [counted(number, "wheel") for number in (0, 1, 2)] == ["0 wheels", "1 wheel", "2 wheels"]
