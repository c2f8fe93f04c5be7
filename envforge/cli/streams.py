"""Handle standard streams that are closed or can't be written."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StdoutError(Exception):
    """A failure to write to stdout. ``is_pipe_closed`` is true if its reader has exited, as in ``| head``.

    It isn't an ``OSError``, so that no handler for files or pipes of other programs catches it.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.is_pipe_closed = isinstance(cause, BrokenPipeError)


class _Stdout(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        with _as_stdout_error():
            return super().write(text)

    def flush(self) -> None:
        with _as_stdout_error():
            super().flush()


def prepare_streams() -> bool:
    """Make failures of stdout recognizable, open streams that are closed, and return whether stdout was open.

    Python sets a closed stream to None, and the next file that is opened gets its descriptor.
    """
    is_stdout_open = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - open until the end
    former: Any = sys.stdout
    options = {name: getattr(former, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
    sys.stdout = _Stdout(former.detach(), newline=None if os.name == "nt" else "\n", **options)
    return is_stdout_open


def discard_stdout() -> None:
    """Send the remaining output to ``/dev/null``, so that the interpreter can flush it when it exits."""
    _discard(1)


def write_stderr(text: str) -> None:
    """Write a line to stderr; if that fails too, no stream is left to report it on."""
    import click

    try:
        click.echo(text, err=True)
    except OSError:
        _discard(2)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextmanager
def _as_stdout_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutError(error) from error
