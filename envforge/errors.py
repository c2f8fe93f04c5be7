"""Define the errors that the library raises, and end a process; only the command line prints errors and exits."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

# what colors a text or moves the cursor of a terminal, also as `repr` and JSON write it
ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\\{1,4}(?:x1b|u001b|033|e)\[|\x9b)[0-?]*[ !]?[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b(?:[()][A-Z0-9])?"
)


def printable(text: str) -> str:
    """Return ``text`` with line endings, control characters, and other invisible characters escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


@dataclass(frozen=True, slots=True)
class Hint:
    """One way out of an error: ``purpose`` (``to update the lockfile``) and the command that achieves it, if any.

    ``command`` is one shell line that works as printed. Metavariables are upper case (``envforge audit --prefix DIR``).
    """

    purpose: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.purpose}, run `{self.command}`" if self.command else self.purpose


class EnvforgeError(Exception):
    """An error that you can fix.

    ``message`` names the expected and the found value, and where each was read, with values in backticks. ``hint`` is
    the purpose of ``command``, a text without a command, or several ``Hint`` values if there is more than one way out.
    ``code`` is a stable identifier for programs, such as ``no-such-template``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | Iterable[Hint] = "", command: str = "", code: str) -> None:
        super().__init__(message)
        self.message = message
        self.hints = _hints(hint, command)
        self.code = code

    @property
    def hint(self) -> str:
        """All hints as one line of text; empty if there are none."""
        return "; ".join(map(str, self.hints))

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of the hints, in order."""
        return tuple(hint.command for hint in self.hints if hint.command)


def _hints(hint: str | Iterable[Hint], command: str) -> tuple[Hint, ...]:
    if isinstance(hint, str):
        return (Hint(hint, command),) if hint else ()
    return tuple(hint)


class RequestError(EnvforgeError):
    """The command line or an answer names something that does not exist, or breaks a rule."""

    exit_code = 2


class OutsideError(EnvforgeError):
    """An external failure: network, disk, or another program."""

    exit_code = 3


def exit_process(code: int) -> NoReturn:
    """End the process with ``code``, without finalization if threads of rattler may still be running.

    From this call on, Ctrl-C ends the process at once, because Python would print a traceback during finalization.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "rattler" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # 35 of 150 processes died with SIGSEGV or SIGABRT after their answer, because threads of py-rattler 0.28 outlive a
    # solve and enter the interpreter while it finalizes; waiting for them would take longer than the solve
    os._exit(code)
