"""Remember SIGTERM and SIGUSR1, so that the loop can save and stop after the current update."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from . import distributed


class Interrupt:
    """While entered, keep the name of the first signal in ``received``."""

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
        """Let a signal to one rank stop all ranks after the same update."""
        number = distributed.largest(signal.Signals[self.received].value if self.received else 0)
        self.received = signal.Signals(number).name if number else ""

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
