"""Show the progress of long work on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from envforge.install.values import Progress

Unit = Literal["bytes", "packages"]
_LINE_EVERY_S = 5.0


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Return the progress that suits stderr, for the time of one command."""
    if not quiet and sys.stderr.isatty():
        with _bars() as bars:
            yield _Terminal(bars)
        return
    lines = _Lines(quiet=quiet)
    try:
        yield lines
    finally:
        lines.stop()


def megabytes(amount: float) -> str:
    """Return an amount of bytes as people read it: ``12.3 MB``."""
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an ``s`` unless the number is 1: ``1 wheel``, ``2 wheels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time as people read it: ``8 s``, ``3 min``, ``1 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _Terminal:
    """One bar for the current step. Steps that count packages show how many instead of bytes."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._total = 0
        self._lock = threading.Lock()

    def begin(self, step: str, total: int | None, unit: Unit) -> None:
        self._total = total or 0
        self._task = self._bars.add_task(step, total=total, count="")

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def enlarge(self, amount: int) -> None:
        if self._task is not None:
            with self._lock:
                self._total += amount
                self._bars.update(self._task, total=self._total)

    def end(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


class _Lines:
    """A line when a step ends, and one every few seconds while it lasts, whether or not it advances."""

    def __init__(self, *, quiet: bool, every_s: float = _LINE_EVERY_S) -> None:
        self._quiet, self._every_s = quiet, every_s
        self._step, self._unit, self._total, self._done = "", "packages", 0, 0
        self._began_s = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._clock: threading.Thread | None = None

    def begin(self, step: str, total: int | None, unit: Unit) -> None:
        self.stop()
        self._step, self._unit, self._total, self._done = step, unit, total or 0, 0
        self._began_s = time.monotonic()
        if not self._quiet:
            self._ended = threading.Event()
            self._clock = threading.Thread(target=self._tick, args=(self._ended,), daemon=True)
            self._clock.start()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount

    def enlarge(self, amount: int) -> None:
        with self._lock:
            self._total += amount

    def end(self) -> None:
        self.stop()
        if self._done:
            lasted_s = time.monotonic() - self._began_s
            rate = f" ({megabytes(self._done / lasted_s)}/s)" if self._unit == "bytes" and lasted_s > 0 else ""
            self._say(f"{self._step}: {self._amount(self._done)} in {lasted_s:.1f} s{rate}")
        self._done = 0

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def stop(self) -> None:
        """End the lines of the current step."""
        self._ended.set()
        if self._clock is not None:
            self._clock.join()
            self._clock = None

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            self._say(self.line(time.monotonic() - self._began_s))

    def line(self, lasted_s: float) -> str:
        """Return what is done of the total, the rate, and the time left, as far as they are known."""
        with self._lock:
            done, total = self._done, self._total
        if self._unit == "packages":
            return f"{self._step}: {done} of {counted(total, 'package')} ({duration(lasted_s)})"
        amount = f"{megabytes(done)} of {megabytes(total)}" if total else megabytes(done)
        facts = [f"{megabytes(done / lasted_s)}/s"] if done else [duration(lasted_s)]
        if 0 < done < total:
            facts.append(f"about {duration((total - done) * lasted_s / done)} left")
        return f"{self._step}: {amount} ({', '.join(facts)})"

    def _amount(self, amount: int) -> str:
        return megabytes(amount) if self._unit == "bytes" else counted(amount, "package")

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)
