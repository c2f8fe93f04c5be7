"""Run an interactive program in a pseudoterminal."""

from __future__ import annotations

import os
import pty
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

_SILENCE_S = 30.0


class Terminal:
    """``with Terminal(words, env, folder) as terminal``: type into a program, read what it shows."""

    def __init__(self, words: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> None:
        self.shown = ""
        self._words, self._environment, self._folder = words, dict(environment), folder
        self._process = self._descriptor = -1

    def __enter__(self) -> Self:
        if sys.platform != "win32":
            self._process, self._descriptor = pty.fork()
            if self._process == 0:
                os.chdir(self._folder)
                os.execve(self._words[0], self._words, self._environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)  # whoever still reads from this terminal is told that it is gone
        if self._process > 0:
            os.waitpid(self._process, 0)

    def type(self, line: str) -> None:
        """Send one line."""
        os.write(self._descriptor, f"{line}\r".encode())

    def read_until(self, text: str) -> str:
        """What is shown up to and with ``text``, since the last call."""
        while text not in self.shown:
            assert self._more(), f"ended without `{text}`: {self.shown!r}"
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def exit_code(self) -> int:
        """Read to the end and tell how it ended."""
        while self._more():
            pass
        _, status = os.waitpid(self._process, 0)
        self._process = -1
        return os.waitstatus_to_exitcode(status)

    def _more(self) -> bool:
        readable, _, _ = select.select([self._descriptor], [], [], _SILENCE_S)
        assert readable, f"nothing came any more after {self.shown!r}"
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so where the other side has ended
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
