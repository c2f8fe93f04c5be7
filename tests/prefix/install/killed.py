"""Run an install in a child process that kills itself at the Nth call of its progress.

    python -m tests.prefix.install.killed LOCK PREFIX CACHE N

With N = 0, it prints the number of calls.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from envforge.errors import exit_process
from envforge.prefix.install import install
from envforge.prefix.values import InstallRequest
from tests.prefix.install.support import NO_WAIT
from tests.support.channel import SUBDIR

assert sys.platform != "win32"


class Fatal:
    """A progress that kills its process at one moment."""

    def __init__(self, moment: int) -> None:
        self.count = 0
        self._moment = moment
        self._lock = threading.Lock()

    def _tick(self) -> None:
        with self._lock:
            self.count += 1
            if self.count == self._moment:
                os.kill(os.getpid(), signal.SIGKILL)

    def begin(self, step: str, total: int | None, unit: str) -> None:
        self._tick()

    def advance(self, amount: int) -> None:
        self._tick()

    def enlarge(self, amount: int) -> None:
        self._tick()

    def end(self) -> None:
        self._tick()

    def note(self, text: str) -> None:
        self._tick()


def main() -> None:
    lock, prefix, cache, moment = sys.argv[1:]
    progress = Fatal(int(moment))
    request = InstallRequest(
        lockfile=Path(lock), prefix=Path(prefix), platform=SUBDIR, cache=Path(cache), retry=NO_WAIT
    )
    install(request, progress)
    print(progress.count, flush=True)  # noqa: T201 - the answer of this program
    exit_process(0)


if __name__ == "__main__":
    main()
