"""What unpacked files looked like when they were last known to be whole, so that they need not be read again (effects).

Beside each archive in the cache lies ``ARCHIVE.seen``: for a conda package one checksum over the listing of what was
unpacked from it, for a wheel one line a file. A listing has size, time of change and inode of each file; not the time
of change of the inode, which each hard link moves on. Docs: decisions/0115.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from envforge.install.journal import write_whole

_TICK_NS = 20_000_000  # twice the coarsest tick of Linux (HZ=100)
_COARSE_NS = 2_000_000_000  # of file systems that keep whole seconds
_SECOND_NS = 1_000_000_000
_SCHEMA = "envforge seen 2"


class Seen(NamedTuple):
    """What tells whether a file is the one that was seen; a tuple, because a wheel has tens of thousands."""

    size: int
    mtime_ns: int
    inode: int


def settled_before(mtimes_ns: Iterable[int], now_ns: int) -> int:
    """The latest time of change that another change, made from ``now_ns`` on, could not have too."""
    fine = any(mtime_ns % _SECOND_NS for mtime_ns in mtimes_ns)
    return now_ns - (_TICK_NS if fine else _COARSE_NS)


def mark(archive: Path) -> Path:
    """Where it is noted what was seen of an archive's files."""
    return archive.with_name(f"{archive.name}.seen")


def folder_stands(folder: Path, archive: Path) -> bool:
    """Whether every file of an unpacked conda package is the one that was seen last; False where none was."""
    try:
        noted = mark(archive).read_text(encoding="ascii")
        return noted == _noted(_listing(folder)[0])
    except (OSError, UnicodeDecodeError):
        return False


def note_folder(folder: Path, archive: Path, whole_at_ns: int) -> None:
    """Note an unpacked package that was whole at ``whole_at_ns``; nothing where a file may have changed since."""
    rows, times_ns = _listing(folder)
    if max(times_ns, default=0) < settled_before(times_ns, whole_at_ns):
        _write(mark(archive), _noted(rows))


def _listing(folder: Path) -> tuple[list[str], list[int]]:
    """A row for each file below a folder (path, target, size, time of change, inode, mode), and their times of change.

    Plain calls and texts: an environment has tens of thousands of files.
    """
    rows, times_ns, waiting = [], [], [("", str(folder))]
    while waiting:
        beginning, place = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{beginning}{entry.name}/", entry.path))
                    continue
                state = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115 - as said above
                facts = f"{state.st_size} {state.st_mtime_ns} {state.st_ino} {state.st_mode}"
                rows.append(f"{beginning}{entry.name}\0{target}\0{facts}")
                times_ns.append(state.st_mtime_ns)
    return rows, times_ns


def _noted(rows: list[str]) -> str:
    text = "\0\0".join(sorted(rows))
    return f"{_SCHEMA}\n{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}\n"


def read_files(archive: Path) -> dict[str, Seen]:
    """The files of a wheel as they were seen last, by their names in it; none where that is not known."""
    try:
        head, *lines = mark(archive).read_text(encoding="utf-8").split("\n")
        if head != _SCHEMA:
            return {}
        rows = (line.split(" ", 3) for line in lines if line)
        return {name: Seen(int(size), int(mtime_ns), int(inode)) for size, mtime_ns, inode, name in rows}
    except (OSError, ValueError):
        return {}


def note_files(archive: Path, files: Mapping[str, Seen], whole_at_ns: int) -> None:
    """Note the files of a wheel that were whole at ``whole_at_ns``; one that may have changed since matches nothing."""
    latest = settled_before((seen.mtime_ns for seen in files.values()), whole_at_ns)
    rows = (seen if seen.mtime_ns < latest else Seen(seen.size, -1, -1) for seen in files.values())
    lines = (f"{seen.size} {seen.mtime_ns} {seen.inode} {name}\n" for name, seen in zip(files, rows, strict=True))
    _write(mark(archive), f"{_SCHEMA}\n{''.join(lines)}")


def _write(path: Path, text: str) -> None:
    """Note it; what is lost in a crash is only read again. A cache that cannot be written stays as it is."""
    if os.access(path.parent, os.W_OK):
        write_whole(path, text.encode("utf-8"), synced=False)
