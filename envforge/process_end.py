"""End a process of envforge after rattler has run in it."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
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
