"""Show the progress of a lock on stderr: steps and bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

    from envforge.lock import Step

_LINE_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5


@contextmanager
def show_progress() -> Iterator[Callable[[Step], None]]:
    """Show each step on stderr, and every few seconds how long it has taken."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry would be a line
    if not sys.stderr.isatty():
        with _ticking(PlainLines(_write)) as lines:
            yield lines.step
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def draw(step: Step) -> None:
            if step.done_bytes is None:
                bar.console.print(step.text, highlight=False, markup=False)
                return
            if step.text not in tasks:
                tasks[step.text] = bar.add_task(step.text, total=step.total_bytes)
            bar.update(tasks[step.text], completed=step.done_bytes)

        yield draw


class PlainLines:
    """One line when the work begins, then at most one every few seconds: the current step and how long it has taken."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._step: Step | None = None
        self._began_s = self._written_s = clock()
        self._lock = threading.Lock()

    def step(self, step: Step) -> None:
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


def _amount(step: Step) -> str:
    if step.done_bytes is None:
        return ""
    from envforge.cli.progress import megabytes

    total = f" of {megabytes(step.total_bytes)}" if step.total_bytes else ""
    return f": {megabytes(step.done_bytes)}{total}"


def _write(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _ticking(lines: PlainLines) -> Iterator[PlainLines]:
    """Call ``tick`` from a thread while the block runs."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(_LOOK_EVERY_S):
            lines.tick()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        done.set()
        thread.join()
