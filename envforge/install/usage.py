"""Lock a package cache: shared by installs, exclusive for ``envforge clean``.

Each process that uses the cache holds ``CACHE/in-use/PID-….lock``. A cleaning holds ``CACHE/cleaning.lock``. An install
acquires that lock for a moment when it starts, so none starts during a cleaning.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envforge.errors import OutsideError

# `clean` must know of installs into any prefix; the system releases these locks when a process dies
_USERS = "in-use"
_CLEANING = "cleaning.lock"
NAMES = (_USERS, _CLEANING)


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Keep cleanings away from the cache, and wait for a running one; a cache that isn't writable is not locked."""
    from filelock import FileLock  # noqa: PLC0415 - only if something is changed

    path = root / _USERS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
    if not _writable(path.parent):
        yield
        return
    own = FileLock(path)
    with FileLock(root / _CLEANING):
        own.acquire()
    try:
        yield
    finally:
        own.release()
        path.unlink(missing_ok=True)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Lock a cache that no other process uses; raise ``OutsideError`` with the PIDs of those that do."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - only if something is changed

    try:
        with FileLock(root / _CLEANING, timeout=0):
            users = [path for path in sorted((root / _USERS).glob("*.lock")) if _is_held(path)]
            if users:
                named = ", ".join(path.name.partition("-")[0] for path in users)
                raise _busy(root, f"an install (PID {named}) is using it")
            yield
    except Timeout as error:
        raise _busy(root, "another envforge process is opening or cleaning it") from error


def _busy(root: Path, why: str) -> OutsideError:
    return OutsideError(
        f"the package cache `{root}` is in use: {why}",
        hint="wait for it to finish, then try again",
        code="cache-busy",
    )


def _is_held(path: Path) -> bool:
    """Return whether the process of a lock file is running; remove the file if it isn't."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - as above

    try:
        with FileLock(path, timeout=0):
            pass
    except Timeout:
        return True
    path.unlink(missing_ok=True)
    return False


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
