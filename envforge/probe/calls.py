"""Make the system calls that ``verify`` needs: disk space, limits, CPUs, clock, kernel log.

Each raises ``OSError`` if the fact is unknown; the caller turns it into the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RECORD = 1 << 16
_UNSYNCHRONISED = 0x0040  # STA_UNSYNC in <linux/timex.h>
_TIMEX_WORDS = 64  # struct timex has 208 bytes on 64-bit Linux; the rest is spare
_STATUS_OFFSET = 40  # modes, offset, freq, maxerror, esterror come first: int (padded) and four long


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The space on a disk; inodes are ``None`` on file systems without inode counts."""

    total_bytes: int
    free_bytes: int
    total_inodes: int | None = None
    free_inodes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """A resource limit of this process; ``None`` is unlimited."""

    soft: int | None
    hard: int | None


def space_of(path: Path) -> Space:
    """Return the space that this user has on the disk of ``path``."""
    if not hasattr(os, "statvfs"):
        import shutil  # noqa: PLC0415 - only for Windows

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
    """Return a limit of this process by its POSIX name, for example ``RLIMIT_NOFILE``."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - does not exist on Windows

        soft, hard = resource.getrlimit(getattr(resource, name))
        return Limits(soft=_limit(soft, resource.RLIM_INFINITY), hard=_limit(hard, resource.RLIM_INFINITY))
    raise OSError("this system has no resource limits")


def _limit(value: int, infinity: int) -> int | None:
    return None if value == infinity or value < 0 else value


def processors() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    if count is None:
        raise OSError("the number of processors is not known")
    return count


def is_clock_kept() -> bool:
    """Return whether NTP or another source keeps the kernel's clock synchronized, by a read-only ``adjtimex``."""
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
    """Return the current records of the kernel log ``/dev/kmsg``; raise ``OSError`` without permission."""
    records = []
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD)
            except BlockingIOError:  # the last record was read
                break
            except BrokenPipeError:  # the kernel overwrote a record that was being read
                continue
            if not record:
                break
            records.append(record)
    finally:
        os.close(descriptor)
    return b"".join(records).decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """All calls in one value, so that tests can pass recorded ones; each may raise ``OSError``."""

    space: Callable[[Path], Space] = space_of
    limits: Callable[[str], Limits] = limits_of
    processors: Callable[[], int] = processors
    is_clock_kept: Callable[[], bool] = is_clock_kept
    kernel_records: Callable[[Path], str] = kernel_records
    may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)
