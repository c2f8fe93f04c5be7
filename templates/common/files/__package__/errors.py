"""Define the errors that you can fix, and turn them into a message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Hint:
    """One way out of an error: its purpose, and the command or the option that achieves it.

    Metavariables are upper case: ``--data DIR``.
    """

    purpose: str
    command: str = ""
    option: str = ""  # of the command that failed

    def __str__(self) -> str:
        if self.command:
            return f"{self.purpose}, run `{self.command}`"
        return f"{self.purpose}, pass `{self.option}`" if self.option else self.purpose


class ProjectError(Exception):
    """Something outside the code is wrong: a file, an option, a device, a checkpoint."""

    def __init__(self, message: str, *, hint: str | Sequence[Hint] = "", command: str = "", option: str = "") -> None:
        super().__init__(message)
        if isinstance(hint, str):
            hint = (Hint(hint, command, option),) if hint else ()
        self.hints = tuple(hint)

    @property
    def hint(self) -> str:
        """All hints as one line; empty if there are none."""
        return "; ".join(map(str, self.hints))

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\n\nhint: {self.hint}" if self.hints else message


def exit_code(command: Callable[[], int], *, resumable: bool = False) -> int:
    """Run ``command`` and return its exit code: 1 after a ``ProjectError`` or on a full disk, 130 after Ctrl-C.

    ``resumable``: the command accepts ``--resume``.
    """
    resume = Hint("to continue from the last checkpoint", option="--resume")
    try:
        return command()
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = f"free some disk space; {resume}" if resumable else "free some disk space"
        print(f"error: {error}\n\nhint: {hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # torchrun interrupts all ranks
            print(f"interrupted; {resume}" if resumable else "interrupted", file=sys.stderr)
        return 130


def hide_interrupt_traceback() -> None:
    """Let Ctrl-C during the imports of ``python -m`` end in one line; ``exit_code`` handles it afterwards."""
    if sys.argv[:1] == ["-m"]:  # what Python sets while it looks for the module to run
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
