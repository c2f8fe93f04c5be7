"""Find the state of an environment and its Python interpreter."""

from __future__ import annotations

import os
from pathlib import Path

from envforge.daily.prefix import is_prefix
from envforge.errors import EnvforgeError
from envforge.install.journal import read_journal


def prefix_state(prefix: Path | None) -> tuple[str, str]:  # noqa: PLR0911 - one line for each state
    """Return the state of a prefix as one word, and as a sentence."""
    if prefix is None:
        return "none", "no environment: neither a project nor `--prefix`"
    if not prefix.is_dir():
        return "missing", f"no environment in `{prefix}`"
    if not is_prefix(prefix):
        if (prefix / "pyvenv.cfg").is_file():
            if python_of(prefix) is None:
                return "not-an-environment", f"`{prefix}` is a virtual environment without Python"
            return "virtual", f"`{prefix}` is a virtual environment that envforge did not create"
        return "not-an-environment", f"`{prefix}` is not an environment: no `conda-meta`, `.envforge` or `pyvenv.cfg`"
    try:
        journal = read_journal(prefix)
    except EnvforgeError as error:
        return "damaged", error.message
    if journal is None:
        if not (prefix / "conda-meta").is_dir():
            return "unfinished", f"`{prefix}` is incomplete: the installation stopped before its first step"
        return "foreign", f"`{prefix}` was created by another tool"
    if journal.step != "verified":
        return "unfinished", f"`{prefix}` is {journal.unfinished}"
    return "finished", f"`{prefix}` was installed from `{journal.lockfile}`"


def python_of(prefix: Path) -> Path | None:
    """Return the interpreter of a conda or virtual environment; None if it has none."""
    places = ("python.exe", "Scripts/python.exe") if os.name == "nt" else ("bin/python", "bin/python3")
    return next((prefix / place for place in places if (prefix / place).is_file()), None)
