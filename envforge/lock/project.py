"""Find the environment.yml that a command means, and write the commands in hints so that they mean the same file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT, LOCKFILE = "environment.yml", "conda-lock.yml"


def find_environment(here: Path) -> Path:
    """Return the ``environment.yml`` of ``here`` or of the project around it, relative to ``here``.

    If there is none, return the path where it would be: in the project, or else in ``here``.
    """
    from envforge.daily.prefix import project_folder  # noqa: PLC0415 - an explicit `--file` needs no search

    start = here.absolute()
    project = project_folder(start)
    for folder in (start, *start.parents):
        if (folder / ENVIRONMENT).is_file() or folder == project:
            return _from(start, folder / ENVIRONMENT)
    return Path(ENVIRONMENT)


def find_lockfile(here: Path) -> Path:
    """Return ``conda-lock.yml`` of the project around ``here``, relative to ``here``; it may not exist."""
    if (here / LOCKFILE).is_file():
        return Path(LOCKFILE)
    return find_environment(here).with_name(LOCKFILE)


def _from(start: Path, path: Path) -> Path:
    return Path(path.name) if path.parent == start else Path(os.path.relpath(path, start))


def project_command(name: str, environment: Path, lockfile: Path | None, words: Sequence[str] = ()) -> str:
    """Return ``envforge NAME`` with the options that select these files, if the command doesn't find them itself."""
    files = [] if _is_same(environment, find_environment(Path())) else ["-f", str(environment)]
    if lockfile is not None and not _is_same(lockfile, environment.with_name(LOCKFILE)):
        files += ["--lockfile", str(lockfile)]
    return shlex.join(["envforge", name, *files, *words])


def _is_same(one: Path, other: Path) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - as the shell sees it, symlinks included
