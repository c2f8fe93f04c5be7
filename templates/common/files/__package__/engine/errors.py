"""Define the errors that you can fix, and turn them into a message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = __package__.rpartition(".")[0]


@dataclass(frozen=True)
class Hint:
    """One way out of an error: its purpose, and the command or the option (of the command that failed).

    Metavariables are upper case: ``--data DIR``.
    """

    purpose: str
    command: str = ""
    option: str = ""

    def __str__(self) -> str:
        if self.command:
            return f"{self.purpose}, run `{self.command}`"
        return f"{self.purpose}, pass `{self.option}`" if self.option else self.purpose


class ProjectError(Exception):
    """Something outside the code is wrong: a file, an option, a device, a checkpoint."""

    def __init__(self, message: str, *, hint: str | Sequence[Hint] = "", command: str = "", option: str = "") -> None:
        super().__init__(message)
        if isinstance(hint, str):
            hint = [Hint(hint, command, option)] if hint else []
        self.hints = tuple(hint)

    @property
    def hint(self) -> str:
        """All hints as one line; empty if there are none."""
        return "; ".join(map(str, self.hints))

    def __str__(self) -> str:
        return f"{self.args[0]}\n\nhint: {self.hint}" if self.hints else str(self.args[0])


class UnsupportedError(ProjectError):
    """This machine doesn't support the requested precision or compilation."""


class DiskError(ProjectError):
    """A file of the run cannot be written; the run can be resumed afterwards."""


def exit_code(command: Callable[[], int], *, resumable: bool = False) -> int:
    """Run ``command`` and return its exit code: 1 after an error that you can fix, 130 after Ctrl-C.

    ``resumable``: the command accepts ``--resume``.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            return command()
        finally:
            print(end="", flush=True)  # here, so that an error of stdout is reported
    except ProjectError as error:
        failure = error
    except OSError as error:
        failure = _failure(error)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # torchrun interrupts all ranks
            print("interrupted", file=sys.stderr)
        return 130
    if resumable and isinstance(failure, DiskError):
        failure.hints += (Hint("to continue from the last checkpoint", option="--resume"),)
    print(f"error: {failure}", file=sys.stderr)
    return 1


def _failure(error: OSError) -> ProjectError:
    """Return what to report; raise ``error`` again if it is more likely a mistake in the code."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE) and not error.filename:  # files are named
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left in the buffer when it exits
        return ProjectError(f"cannot write to stdout: {reason}", hint="redirect stdout to a file on a disk with space")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"cannot write `{error.filename}`: {reason}", hint="free some disk space")
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from tempfile
        return ProjectError(reason, hint="set the variable TMPDIR to a directory on a disk with space")
    if error.filename is None or isinstance(error, FileNotFoundError):
        raise error
    return ProjectError(f"cannot access `{error.filename}`: {reason}", hint="check its type, owner, and permissions")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of a write name its file, which Python doesn't do after the file was opened."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def library(module: str, wish: str, *, hint: Sequence[Hint] = ()) -> Any:
    """Import and return an optional module; ``wish`` is what requires it, such as an option."""
    name = module.partition(".")[0]
    hint = hint or [Hint(f"to add `{name}` to the environment", f"envforge add --pip {name} && envforge install")]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchvision raises RuntimeError for another torch
        raise ProjectError(f"{wish} requires `{name}`, which cannot be imported: {error}", hint=hint) from error


def hide_interrupt_traceback() -> None:
    """Let Ctrl-C during the imports of ``python -m`` end without a traceback; ``exit_code`` handles it afterwards."""
    if sys.argv[:1] == ["-m"]:  # what Python sets while it looks for the module to run
        signal.signal(signal.SIGINT, signal.SIG_DFL)
