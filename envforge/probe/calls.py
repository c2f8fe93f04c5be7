"""What only the kernel tells, apart from files and programs: room on disks, limits, processors, clock, kernel log.

Enters: a path or nothing. Leaves: values, or an ``OSError`` that the caller turns into the reason why it is not known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RECORD = 1 << 16
_UNSYNCHRONISED = 0x0040  # STA_UNSYNC in <linux/timex.h>
_TIMEX_WORDS = 64  # struct timex is 208 bytes on 64-bit Linux; the rest is room
_STATUS_OFFSET = 40  # modes, offset, freq, maxerror, esterror come first: int (padded) and four long


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The room on a disk; some file systems count no inodes, which is None."""

    total_bytes: int
    free_bytes: int
    total_inodes: int | None = None
    free_inodes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """A limit of this process; None is unlimited."""

    soft: int | None
    hard: int | None


def space_of(path: Path) -> Space:
    """The room that this user has on the disk of ``path``."""
    if not hasattr(os, "statvfs"):
        import shutil  # noqa: PLC0415 - Windows alone

        usage = shutil.disk_usage(path)
        return Space(total_bytes=usage.total, free_bytes=usage.free)
    found = os.statvfs(path)
    counts = found.f_files > 0
    return Space(
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        total_inodes=found.f_files if counts else None,
        free_inodes=found.f_favail if counts else None,
    )


def limits_of(name: str) -> Limits:
    """A limit of this process by its POSIX name, for example ``RLIMIT_NOFILE``."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - does not exist on Windows

        soft, hard = resource.getrlimit(getattr(resource, name))
        return Limits(soft=_limit(soft, resource.RLIM_INFINITY), hard=_limit(hard, resource.RLIM_INFINITY))
    raise OSError("this system has no resource limits")


def _limit(value: int, infinity: int) -> int | None:
    return None if value == infinity or value < 0 else value


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    if count is None:
        raise OSError("the number of processors is not known")
    return count


def is_clock_kept() -> bool:
    """Whether the kernel's clock is kept right by NTP or another source: ``adjtimex`` with nothing to change."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - `detect` starts without it

        timex = (ctypes.c_long * _TIMEX_WORDS)()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
        return not status & _UNSYNCHRONISED
    raise OSError("only Linux reports whether the clock is synchronized")


def kernel_records(path: Path) -> str:
    """The records of the kernel's log, ``/dev/kmsg``, that are there now; raises OSError without permission."""
    records = []
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD)
            except BlockingIOError:  # the end of what is there
                break
            except BrokenPipeError:  # a record was overwritten while we read
                continue
            if not record:
                break
            records.append(record)
    finally:
        os.close(descriptor)
    return b"".join(records).decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """The calls in one value; tests give recorded ones. Each may raise OSError."""

    space: Callable[[Path], Space] = space_of
    limits: Callable[[str], Limits] = limits_of
    processors: Callable[[], int] = processors
    is_clock_kept: Callable[[], bool] = is_clock_kept
    kernel_records: Callable[[Path], str] = kernel_records
    may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)
