"""Change two files in a separate process that kills itself at its Nth file operation.

    python -m tests.lock.change.killed FOLDER N

With N = 0, it completes and prints the number of operations.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from envforge.lock.project import replace_together

NEW = {"environment.yml": b"new environment\n", "conda-lock.yml": b"new lock\n"}
_TOUCHES = {"open", "os.rename", "os.remove"}


def main() -> None:
    folder, moment = Path(sys.argv[1]), int(sys.argv[2])
    count = 0

    def touch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in _TOUCHES and str(arguments[0]).startswith(str(folder)):
            count += 1
            if sys.platform != "win32" and count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touch)
    replace_together(folder / "environment.yml", {folder / name: data for name, data in NEW.items()})
    print(count)  # noqa: T201 - the answer of this program


if __name__ == "__main__":
    main()
