"""SIGTERM and SIGUSR1 ask the run to save and leave; the loop looks at a step boundary, nothing happens in between."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from . import distributed


class Interrupt:
    """While entered, remembers the name of the first signal in ``received``."""

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for name in ("SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has no SIGUSR1
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Let a signal that one rank received stop all of them at the same update."""
        number = distributed.largest(signal.Signals[self.received].value if self.received else 0)
        self.received = signal.Signals(number).name if number else ""

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
