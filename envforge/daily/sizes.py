"""How large folders are, and how much of it their removal frees (reads the disk)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """``bytes`` as files tell their length, each file once; ``freed_bytes`` without those that have links elsewhere."""

    bytes: int = 0
    freed_bytes: int = 0


def file_bytes(path: Path) -> int | None:
    """The length of a file; ``None`` where there is none, or a cleaning has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def measure(path: Path) -> Size:
    """The size of a file or folder. Links are not followed."""
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
    except FileNotFoundError:  # somebody else has removed it meanwhile
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
