"""Run the commands that a template requests in a new project. Callers require ``--trust``."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from envforge.errors import EnvforgeError, printable

_STDERR = 2


def shown_hook(command: tuple[str, ...]) -> str:
    """Return the command as it would be typed, with invisible characters escaped."""
    return printable(shlex.join(command))


def run_hook(command: tuple[str, ...], folder: Path) -> None:
    """Run one command in the project, without a shell; its output goes to stderr."""
    failed = f"the template's command `{shown_hook(command)}` failed in `{folder}`"
    try:
        done = subprocess.run(command, cwd=folder, stdout=_STDERR, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise EnvforgeError(f"{failed}: {error}; the project is complete", code="hook-failed") from error
    if done.returncode != 0:
        raise EnvforgeError(
            f"{failed} with exit code {done.returncode}; the project is complete",
            hint="to repeat the command, run it in the project's directory",
            code="hook-failed",
        )
