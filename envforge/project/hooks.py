"""Commands that a template's author wants to be run in a new project (effects: runs them).

Enters: a command as its words, and the folder. Leaves: nothing, or an ``EnvforgeError`` where it failed. Nobody
calls this without the user's ``--trust``.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from envforge.errors import EnvforgeError

_STDERR = 2


def shown_hook(command: tuple[str, ...]) -> str:
    """The command as it would be typed, with nothing hidden: characters that cannot be seen are written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shlex.join(command))


def run_hook(command: tuple[str, ...], folder: Path) -> None:
    """Run one command in the project, without a shell; what it says goes to stderr."""
    failed = f"the template's command `{shown_hook(command)}` failed in `{folder}`"
    try:
        done = subprocess.run(command, cwd=folder, stdout=_STDERR, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise EnvforgeError(f"{failed}: {error}; the project is there, whole", code="hook-failed") from error
    if done.returncode != 0:
        raise EnvforgeError(
            f"{failed} with exit code {done.returncode}; the project is there, whole",
            hint=f"cd '{folder}' && {shown_hook(command)}",
            code="hook-failed",
        )
