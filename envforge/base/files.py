"""Write files atomically, hold the lock of a file, and provide private temporary directories."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from envforge.errors import OutsideError

_READER_S = 2.0  # for the reader of a pipe to open it
_LARGEST = 64_000_000  # bytes of a document; the largest real ones, records of conda packages, have 20 MB


@contextlib.contextmanager
def file_lock(path: Path, *, timeout_s: float = -1) -> Iterator[None]:
    """Hold a lock file; raise ``filelock.Timeout`` if another process holds it, or an ``OSError`` with its path."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - slow to import, and most commands write without a lock

    lock = FileLock(path, timeout=timeout_s)
    # the oldest filelock would wait for the reader of a pipe
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise _with_path(OSError(errno.EINVAL, ""), path)
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        raise _with_path(error, path) from error
    try:
        yield
    finally:
        lock.release()


def _with_path(error: OSError, path: Path) -> OSError:
    is_other = error.errno in {errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO}  # of links, directories, and pipes
    return OSError(error.errno, "not a regular file" if is_other else error.strerror, str(path))


@contextlib.contextmanager
def exclusive_lock(lockfile: Path) -> Iterator[None]:
    """Hold the lock of a lockfile; raise ``OutsideError`` if another process holds it."""
    from filelock import Timeout  # noqa: PLC0415 - as above
    from platformdirs import user_cache_path  # noqa: PLC0415 - as above

    # in the cache and not next to the lockfile, where it would appear in `git status`
    name = hashlib.sha256(str(lockfile.resolve()).encode()).hexdigest()[:24]
    folder = user_cache_path("envforge", appauthor=False) / "running"
    guard = contextlib.ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard.enter_context(file_lock(folder / f"{name}.lock", timeout_s=0))
    except Timeout as error:
        raise OutsideError(
            f"another envforge process is locking `{lockfile}`",
            hint="wait for it to finish, then try again",
            code="lock-busy",
        ) from error
    except OSError as error:
        raise OutsideError(
            f"cannot write to the cache directory `{folder}`: {error.strerror or error}",
            hint="to use another cache directory, set `XDG_CACHE_HOME=DIR`",
            code="no-cache",
        ) from error
    with guard:
        yield


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Create a private temporary directory, and remove it afterwards; raise ``OutsideError`` if it is full."""
    folder = None
    try:
        # `mkdtemp` lets only this user in: the files may contain credentials
        folder = Path(tempfile.mkdtemp(prefix="envforge-lock-"))
        yield folder
    except OSError as error:
        place = str(error.filename or tempfile.gettempdir())
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not place.startswith(tempfile.gettempdir()):
            raise
        raise OutsideError(
            f"cannot write to the temporary directory `{tempfile.gettempdir()}`: {error.strerror}",
            hint="free disk space there; to use another directory for temporary files, set `TMPDIR=DIR`",
            code="temporary-full",
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def current_umask() -> int:
    """Return the umask of this process; reading it by `os.umask` would change it for other threads."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        probe.touch(mode=0o777)
        return 0o777 & ~stat.S_IMODE(probe.stat().st_mode)


def regular(path: Path) -> Path:
    """Return the path of a document; raise ``OSError`` if reading it might never end, or fill the memory."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST // 1_000_000} MB", str(path))
    return path


def open_own(path: Path, mode: str) -> BinaryIO:
    """Open a file that only envforge writes, and create it; raise ``OSError`` if it is a link, a pipe, or a device."""
    flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if "a" in mode else os.O_TRUNC)
    # opening a pipe would wait for a reader
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _with_path(error, path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return cast("BinaryIO", os.fdopen(descriptor, mode))


def write_atomic(path: Path, content: str | bytes, *, synced: bool = True, through_links: bool = True) -> None:
    """Replace a file by ``content`` atomically; see ``replacing``."""
    with replacing(path, synced=synced, through_links=through_links) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, *, synced: bool = True, through_links: bool = True) -> Iterator[BinaryIO]:
    """Yield a temporary file, and rename it to ``path`` at the end; after an error, ``path`` is unchanged.

    A symbolic link is kept, and the file that it leads to is replaced. Pass ``through_links=False`` for files in a
    directory that other people can write links into. A new file gets the mode that the umask allows; an existing file
    keeps its mode. Pass ``synced=False`` if losing the file in a power failure is harmless. Raises ``OutsideError``.
    """
    target = Path(os.path.realpath(path)) if through_links else path
    # other people may have put a link at a name that they can guess; a name has at most 255 bytes
    aside = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}")
    is_stream = target.exists() and not target.is_file()  # a pipe or a device, which a rename would replace
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot create the directory `{path.parent}`: {error.strerror or error}"
        raise OutsideError(message, code="unwritable") from error
    try:
        with _opened_stream(target) if is_stream else aside.open("xb") as stream:
            yield stream
            stream.flush()
            if synced and not is_stream:
                os.fsync(stream.fileno())
        if is_stream:
            return
        # a rename would otherwise give the file the mode of a new one
        if target.is_file() and not target.is_symlink():
            aside.chmod(stat.S_IMODE(target.stat().st_mode))
        aside.replace(target)
        if synced:
            sync_folder(target.parent)
    except OSError as error:
        raise OutsideError(f"cannot write `{path}`: {error.strerror or error}", code="unwritable") from error
    finally:
        with contextlib.suppress(OSError):  # the directory may be read-only, or gone
            aside.unlink(missing_ok=True)


def _opened_stream(path: Path) -> BinaryIO:
    """Open a pipe or a device; raise ``OSError`` if a pipe has no reader after a moment, instead of waiting forever."""
    end = time.monotonic() + _READER_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.02)
    if sys.platform != "win32":
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that no one reads yet, and flush it to disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush renames in a directory to disk."""
    if os.name == "nt":  # Windows can't open a directory
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_writable(folder: Path) -> bool:
    """Return whether this user can write into a directory, which is created if it doesn't exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
