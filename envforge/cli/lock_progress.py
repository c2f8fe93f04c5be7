"""How far a lock is: a line for each step, on a terminal with a bar while a wheel is fetched; always on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

    from envforge.lock import Step


@contextmanager
def show_progress() -> Iterator[Callable[[Step], None]]:
    """A line for each step on stderr; on a terminal a bar while a wheel is fetched."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry would be a line
    if not sys.stderr.isatty():
        said: set[str] = set()

        def say(step: Step) -> None:
            if step.text not in said:
                said.add(step.text)
                click.echo(step.text, err=True)

        yield say
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
