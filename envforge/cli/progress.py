"""Show the progress of long commands on stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from envforge.cli import without_controls

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from envforge.lock.request import LockStep
    from envforge.prefix.values import InstallProgress

Unit = Literal["bytes", "packages"]
_LINE_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[InstallProgress]:
    """Return the progress that suits stderr, for the time of one command."""
    if not quiet and sys.stderr.isatty():
        with _bars(shows_rate=True) as bars:
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


def _bars(*, shows_rate: bool) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    if shows_rate:
        columns[2:2] = [TextColumn("{task.fields[count]}")]
        columns[4:4] = [TransferSpeedColumn()]
    return Progress(*columns, console=Console(file=sys.__stderr__), transient=True)


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
        self._bars.console.print(without_controls(text), markup=False, highlight=False)


class _Lines:
    """A line when a step ends, and one every second while it lasts, whether or not it advances."""

    def __init__(self, *, quiet: bool, every_s: float = 1.0) -> None:
        self._quiet, self._every_s = quiet, every_s
        self._step, self._unit, self._total, self._done = "", "packages", 0, 0
        self._began_s = 0.0
        self._lock = threading.Lock()
        self._clock: _Clock | None = None

    def begin(self, step: str, total: int | None, unit: Unit) -> None:
        self.stop()
        self._step, self._unit, self._total, self._done = step, unit, total or 0, 0
        self._began_s = time.monotonic()
        if not self._quiet:
            # in a thread, because a step that hangs doesn't call `advance`
            self._clock = _Clock(self._tick, self._every_s)

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount

    def enlarge(self, amount: int) -> None:
        with self._lock:
            self._total += amount

    def end(self) -> None:
        self.stop()
        # a step that did nothing isn't worth a line
        if self._done:
            lasted_s = time.monotonic() - self._began_s
            rate = f" ({megabytes(self._done / lasted_s)}/s)" if self._unit == "bytes" and lasted_s > 0 else ""
            self._say(f"{self._step}: {self._amount(self._done)} in {lasted_s:.1f} s{rate}")
        self._done = 0

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def stop(self) -> None:
        """End the lines of the current step."""
        if self._clock is not None:
            self._clock.stop()
            self._clock = None

    def _tick(self) -> None:
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


class _Clock:
    """Call ``tick`` in a thread every ``every_s`` seconds, until ``stop``."""

    def __init__(self, tick: Callable[[], None], every_s: float) -> None:
        self._ended = threading.Event()

        def run() -> None:
            while not self._ended.wait(every_s):
                tick()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


@contextmanager
def show_progress() -> Iterator[Callable[[LockStep], None]]:
    """Show each step on stderr, and every few seconds how long it has taken."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry would be a line
    if not sys.stderr.isatty():
        lines = PlainLines(lambda text: click.echo(text, err=True))
        clock = _Clock(lines.tick, _LOOK_EVERY_S)
        try:
            yield lines.step
        finally:
            clock.stop()
        return
    with _bars(shows_rate=False) as bar:
        tasks: dict[str, TaskID] = {}

        def draw(step: LockStep) -> None:
            if step.done_bytes is None:
                bar.console.print(without_controls(step.text), highlight=False, markup=False)
                return
            if step.text not in tasks:
                tasks[step.text] = bar.add_task(step.text, total=step.total_bytes)
            bar.update(tasks[step.text], completed=step.done_bytes)

        yield draw


class PlainLines:
    """One line when the work begins, then at most one every few seconds: the current step and how long it has taken."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._step: LockStep | None = None
        self._began_s = self._written_s = clock()
        self._lock = threading.Lock()

    def step(self, step: LockStep) -> None:
        """Begin a step, or note how far the current one is."""
        if step.is_note:
            self._write(step.text)
            return
        with self._lock:
            is_first = self._step is None
            if is_first or self._step is None or self._step.text != step.text:
                self._began_s = self._clock()
            self._step = step
            if is_first:
                self._written_s = self._clock()
                self._write(step.text)

    def tick(self) -> None:
        """Write a line if the last one is old enough."""
        with self._lock:
            now = self._clock()
            if self._step is None or now - self._written_s < _LINE_EVERY_S:
                return
            self._written_s = now
            self._write(f"{self._step.text}{_amount(self._step)} ({now - self._began_s:.0f} s)")


def _amount(step: LockStep) -> str:
    if step.done_bytes is None:
        return ""
    total = f" of {megabytes(step.total_bytes)}" if step.total_bytes else ""
    return f": {megabytes(step.done_bytes)}{total}"
