"""Run one lock at a time, in a private temporary directory, and write files atomically."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from envforge.errors import OutsideError


@contextlib.contextmanager
def exclusive_lock(lockfile: Path) -> Iterator[None]:
    """Hold the lock of a lockfile; raise ``OutsideError`` if another process holds it."""
    name = hashlib.sha256(str(lockfile.resolve()).encode()).hexdigest()[:24]
    folder = user_cache_path("envforge", appauthor=False) / "running"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = FileLock(folder / f"{name}.lock", timeout=0).acquire()
    except Timeout as error:
        raise OutsideError(
            f"another envforge process is locking `{lockfile}`",
            hint="wait for it to finish, then try again",
            code="lock-busy",
        ) from error
    except OSError as error:
        raise OutsideError(
            f"cannot write to the cache directory `{folder}`: {error}",
            hint="to use another cache directory, set `XDG_CACHE_HOME=DIR`",
            code="no-cache",
        ) from error
    with guard:
        yield


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Create a private temporary directory, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="envforge-lock-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary file that is flushed to disk and then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        raise OutsideError(f"cannot write `{path}`: {error}", code="unwritable") from error
    finally:
        aside.unlink(missing_ok=True)
