"""Measure the size of directories, and how much space removing them frees."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Sizes in bytes, each file once; ``freed_bytes`` excludes files that have hard links elsewhere."""

    bytes: int = 0
    freed_bytes: int = 0


def file_bytes(path: Path) -> int | None:
    """Return the size of a file in bytes, or None if it doesn't exist; a cleaning may remove it at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def measure(path: Path) -> Size:
    """Return the size of a file or directory. Links are not followed."""
    links: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for status in _statuses(path):
        key = (status.st_dev, status.st_ino)
        links[key] = links.get(key, 0) + 1
        sizes[key] = (status.st_size, status.st_nlink)
    return Size(
        bytes=sum(size for size, _ in sizes.values()),
        freed_bytes=sum(size for key, (size, count) in sizes.items() if links[key] >= count),
    )


def _statuses(path: Path) -> Iterator[os.stat_result]:
    try:
        status = path.lstat()
    except FileNotFoundError:  # another process has removed it
        return
    if not stat.S_ISDIR(status.st_mode):
        yield status
        return
    waiting = [path]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    yield os.lstat(entry.path)
