"""List every file of a prefix with the size, mtime, and inode that show whether it has changed.

``.envforge`` (envforge's own records) and ``__pycache__`` (written by Python) are omitted.
"""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import NamedTuple

from envforge.install.journal import FOLDER


class Entry(NamedTuple):
    """A file or a link; ``target`` is None for a file. A tuple, because a prefix has tens of thousands of files."""

    size: int
    mtime_ns: int
    inode: int
    target: str | None


def read_inventory(prefix: Path) -> dict[str, Entry]:
    """Return every file and link by its path in the prefix; links to directories are not followed."""
    found: dict[str, Entry] = {}
    waiting = [("", str(prefix))]
    while waiting:
        beginning, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = beginning + entry.name
                if name == FOLDER or entry.name == "__pycache__":
                    continue
                state = entry.stat(follow_symlinks=False)
                if S_ISDIR(state.st_mode):
                    waiting.append((f"{name}/", entry.path))
                elif S_ISLNK(state.st_mode):
                    found[name] = Entry(0, 0, 0, os.readlink(entry.path))  # noqa: PTH115 - a Path for each file is slow
                elif S_ISREG(state.st_mode):
                    found[name] = Entry(state.st_size, state.st_mtime_ns, state.st_ino, None)
    return found
