"""The one kind of error that is the user's to mend: what was wanted, what was found, and a hint."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class ProjectError(Exception):
    """Something outside the code is wrong: a folder, an option, a device, a checkpoint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\n\nhint: {self.hint}" if self.hint else message


def exit_code(command: Callable[[], int]) -> int:
    """Run ``command``; a ``ProjectError`` becomes a message and exit code 1, Ctrl-C exit code 130."""
    try:
        return command()
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "free disk space; `--resume` continues from the last checkpoint"
        print(f"error: {error}\n\nhint: {hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `--resume` continues from the last checkpoint", file=sys.stderr)
        return 130
