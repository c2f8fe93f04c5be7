"""Define the errors that you can fix, and turn them into a message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE = __package__.rpartition(".")[0]
CONTINUE = "; to continue from the last checkpoint, pass `--resume`"


class ProjectError(Exception):
    """Something outside the code is wrong: a file, an option, a device, a checkpoint.

    ``hint`` has one or more ways out, such as "to use other data, pass `--data DIR`".
    """

    def __init__(self, message: str, *, hint: str | Sequence[str] = "") -> None:
        super().__init__(message)
        self.hint = hint if isinstance(hint, str) else "; ".join(hint)

    def __str__(self) -> str:
        return f"{self.args[0]}\n\nhint: {self.hint}" if self.hint else str(self.args[0])


class UnsupportedError(ProjectError):
    """This machine doesn't support the requested precision or compilation."""


def exit_code(command: Callable[[], int], *, resumable: bool = False) -> int:
    """Run ``command`` and return its exit code: 1 after an error that you can fix, 130 after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            return command()
        finally:
            print(end="", flush=True)  # here, so that an error of stdout is reported
    except (ProjectError, OSError) as error:
        failure = error if isinstance(error, ProjectError) else _failure(error, CONTINUE if resumable else "")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # torchrun interrupts all ranks
            print("interrupted", file=sys.stderr)
        return 130
    if failure is None:
        return 141  # 128 + SIGPIPE
    print(f"error: {failure}", file=sys.stderr)
    return 1


def _failure(error: OSError, more: str) -> ProjectError | None:
    """Return what to report, if anything; raise ``error`` again if it is more likely a mistake in the code."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE) and not error.filename:  # files are named
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left in the buffer when it exits
        if error.errno == errno.EPIPE and not more:  # `head` has enough, which other tools don't report either
            return None
        return ProjectError(f"cannot write to stdout: {reason}", hint="redirect stdout to a file on a disk with space")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ProjectError(f"cannot write `{error.filename}`: {reason}", hint=f"free some disk space{more}")
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


def library(module: str, wish: str, *, hint: str | Sequence[str] = "") -> Any:
    """Import and return an optional module; ``wish`` is what requires it, such as an option."""
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchvision raises RuntimeError for another torch
        hint = hint or f"to add `{name}` to the environment, run `envforge add --pip {name} && envforge install`"
        raise ProjectError(f"{wish} requires `{name}`, which cannot be imported: {error}", hint=hint) from error


def hide_interrupt_traceback() -> None:
    """Let Ctrl-C during the imports of ``python -m`` end without a traceback; ``exit_code`` handles it afterwards."""
    if sys.argv[:1] == ["-m"]:  # what Python sets while it looks for the module to run
        signal.signal(signal.SIGINT, signal.SIG_DFL)
