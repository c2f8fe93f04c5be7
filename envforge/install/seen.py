"""Cache the size, mtime, and inode of verified files, so that unchanged files aren't hashed again.

Each archive in the cache has a file ``ARCHIVE.seen`` next to it. For a conda package, it contains one checksum over the
listing of the unpacked files; for a wheel, one line per file. The listing doesn't contain the ctime, which each hard
link changes. Docs: decisions/0115.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from envforge.install.journal import write_whole

_TICK_NS = 20_000_000  # twice the longest clock tick of Linux (HZ=100)
_COARSE_NS = 2_000_000_000  # for file systems that store whole seconds
_SECOND_NS = 1_000_000_000
_SCHEMA = "envforge seen 2"


class Seen(NamedTuple):
    """Identity of a file's content. A tuple, because a wheel has tens of thousands of files."""

    size: int
    mtime_ns: int
    inode: int


def settled_before(mtimes_ns: Iterable[int], now_ns: int) -> int:
    """Return the limit below which an mtime can't come from a change after ``now_ns``, in nanoseconds.

    A later change could fall into the same clock tick as the previous one, and leave the mtime as it was.
    """
    fine = any(mtime_ns % _SECOND_NS for mtime_ns in mtimes_ns)
    return now_ns - (_TICK_NS if fine else _COARSE_NS)


def mark(archive: Path) -> Path:
    """Return the path of the ``.seen`` file of an archive."""
    return archive.with_name(f"{archive.name}.seen")


def folder_stands(folder: Path, archive: Path) -> bool:
    """Return whether all files of an unpacked conda package are unchanged since they were last verified."""
    try:
        noted = mark(archive).read_text(encoding="ascii")
        return noted == _noted(_listing(folder)[0])
    except (OSError, UnicodeDecodeError):
        return False


def note_folder(folder: Path, archive: Path, whole_at_ns: int) -> None:
    """Record an unpacked package that was intact at ``whole_at_ns``, unless a file may have changed since then."""
    rows, times_ns = _listing(folder)
    if max(times_ns, default=0) < settled_before(times_ns, whole_at_ns):
        _write(mark(archive), _noted(rows))


def _listing(folder: Path) -> tuple[list[str], list[int]]:
    """Return a row for each file below a directory (path, target, size, mtime, inode, mode), and all mtimes.

    Uses plain strings instead of ``Path``, because an environment has tens of thousands of files.
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
                target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115 - Path is slow
                facts = f"{state.st_size} {state.st_mtime_ns} {state.st_ino} {state.st_mode}"
                rows.append(f"{beginning}{entry.name}\0{target}\0{facts}")
                times_ns.append(state.st_mtime_ns)
    return rows, times_ns


def _noted(rows: list[str]) -> str:
    text = "\0\0".join(sorted(rows))
    return f"{_SCHEMA}\n{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}\n"


def read_files(archive: Path) -> dict[str, Seen]:
    """Return the recorded files of a wheel by their names in it; empty if there is no valid record."""
    try:
        head, *lines = mark(archive).read_text(encoding="utf-8").split("\n")
        if head != _SCHEMA:
            return {}
        rows = (line.split(" ", 3) for line in lines if line)
        return {name: Seen(int(size), int(mtime_ns), int(inode)) for size, mtime_ns, inode, name in rows}
    except (OSError, ValueError):
        return {}


def note_files(archive: Path, files: Mapping[str, Seen], whole_at_ns: int) -> None:
    """Record the files of a wheel that were intact at ``whole_at_ns``.

    A file that may have changed since then is recorded with values that never match.
    """
    latest = settled_before((seen.mtime_ns for seen in files.values()), whole_at_ns)
    rows = (seen if seen.mtime_ns < latest else Seen(seen.size, -1, -1) for seen in files.values())
    lines = (f"{seen.size} {seen.mtime_ns} {seen.inode} {name}\n" for name, seen in zip(files, rows, strict=True))
    _write(mark(archive), f"{_SCHEMA}\n{''.join(lines)}")


def _write(path: Path, text: str) -> None:
    """Write the record if the cache is writable; if a crash loses it, the files are read again."""
    if os.access(path.parent, os.W_OK):
        write_whole(path, text.encode("utf-8"), synced=False)
