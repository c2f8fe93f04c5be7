"""Delay SIGINT and SIGTERM until a point at which every change can be undone."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within ``with Interrupts() as interrupts``, signals arrive only at ``interrupts.check()`` and at the end."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python handles signals only in the main thread
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` and a shell's `&` ignore it
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # it accepts what signal.signal returned
        if self._received is not None:
            signal.raise_signal(self._received)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has arrived, so that the caller undoes its changes."""
        if self._received is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
