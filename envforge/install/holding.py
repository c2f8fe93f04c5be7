"""Lock a prefix, so that only one install changes it at a time.

An install holds ``PREFIX/.envforge/lock``. Each uv that it starts holds ``PREFIX/.envforge/writers``, because the child
inherits the open file. That lock remains held if the parent is killed while uv still writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envforge.errors import OutsideError
from envforge.install.journal import FOLDER
from envforge.install.values import Progress, Silent

if sys.platform != "win32":
    import fcntl


@contextmanager
def held(prefix: Path, progress: Progress | None = None) -> Iterator[None]:
    """Lock a prefix for one install; raise ``OutsideError`` with the PID of the process that holds it."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - not needed to start a child process

    folder = prefix / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "holder"
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutsideError(
            f"another envforge process (PID {_holder(holder)}) is installing into `{prefix}`",
            hint="wait for it to finish, then try again",
            code="prefix-busy",
        ) from error
    try:
        _await_writers(folder, progress or Silent())
        holder.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def writing(prefix: Path) -> Iterator[tuple[int, ...]]:
    """Yield the file descriptors that a child process must inherit if it changes a prefix; none on Windows."""
    if sys.platform == "win32":
        yield ()
    else:
        with (prefix / FOLDER / "writers").open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield (stream.fileno(),)


def _await_writers(folder: Path, progress: Progress) -> None:
    if sys.platform != "win32" and (folder / "writers").exists():
        with (folder / "writers").open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note("waiting for the uv process of an interrupted install to finish")
                fcntl.flock(stream, fcntl.LOCK_EX)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"
