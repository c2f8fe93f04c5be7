"""Record the state of a prefix, and lock it.

The journal is ``PREFIX/.envforge/journal.json`` and is replaced atomically. Until its step is ``verified``, the prefix
is incomplete.

An install holds ``PREFIX/.envforge/lock``. Each uv that it starts holds ``PREFIX/.envforge/writers``, because the child
inherits the open file. That lock remains held if the parent is killed while uv still writes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.documents import Document, Printable
from envforge.base.envelope import to_json
from envforge.base.files import current_umask, file_lock, open_own, regular, write_atomic
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.plan import Wheel
from envforge.lock.project import ENVFORGE_DIRECTORY, LOCK_FILE, PYLOCK, VENV_IN_PROJECT, is_pylock
from envforge.prefix.values import InstallProgress, InstallStep, Silent
from envforge.prefix.venv import is_venv


class Journal(Struct, frozen=True, kw_only=True):
    """The state of one prefix.

    ``fingerprint`` identifies the packages of the lockfile. ``created`` means that the directory was empty before the
    first install, so an incomplete prefix may be emptied again. ``conda`` contains the names of the records in
    conda-meta, ``wheels`` what uv has installed or is about to install. ``prefix`` is the path that the installed files
    contain; it is empty in the journals of earlier versions. ``categories`` are the requested ones, empty for the
    default; ``variables`` are those that the lockfile sets. Another tool created an ``adopted`` prefix.
    """

    step: InstallStep
    fingerprint: str
    lockfile: Printable
    platform: Printable
    created: bool
    conda: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    prefix: str = ""
    categories: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    adopted: bool = False
    schema_version: Literal[1] = 1

    @property
    def unfinished(self) -> str:
        """Description of an incomplete prefix, the same for every command."""
        return f"incomplete (last step: `{self.step}`)"

    def was_moved(self, prefix: Path) -> bool:
        """Return whether the environment was created in another directory than ``prefix``, and then moved or copied."""
        return bool(self.prefix) and os.path.realpath(self.prefix) != os.path.realpath(prefix)

    def again(self, command: str) -> str:
        """Return an ``envforge install`` with the options that select the same packages."""
        return " ".join([command, *(f"--category {shlex.quote(name)}" for name in self.categories)])

    def at(self, step: InstallStep) -> Journal:
        """Return the journal with another step."""
        return replace(self, step=step)


def journal_path(prefix: Path) -> Path:
    """Return the path of the journal of a prefix."""
    return prefix / ENVFORGE_DIRECTORY / "journal.json"


def read_journal(prefix: Path) -> Journal | None:
    """Return the journal of a prefix, or None if it has none; raise ``EnvforgeError`` if it is invalid."""
    path = journal_path(prefix)
    if not path.exists():
        return None
    document = Document(
        damaged=f"the journal `{path}` is invalid",
        error=EnvforgeError,
        code="journal-damaged",
        hint="to create the environment again",
        command=recreate_command(prefix),
    )
    return document.read_json(document.read_bytes(path), Journal)


def write_journal(prefix: Path, journal: Journal) -> None:
    """Record a step; after a crash, the file is either the old or the new journal."""
    text = json.dumps(to_json(journal), indent=1, sort_keys=True) + "\n"
    write_atomic(journal_path(prefix), text, through_links=False)


def keep_lockfile(lockfile: Path, prefix: Path) -> None:
    """Copy a lockfile into a prefix, for the time when its own path no longer exists.

    Only people who may read the lockfile, whose URLs may contain a password, may read the copy.
    """
    kept = kept_lockfile(prefix, lockfile)
    kept.unlink(missing_ok=True)  # another user may own it
    kept.touch()
    kept.chmod(0o666 & ~current_umask() & lockfile.stat().st_mode)
    write_atomic(kept, lockfile.read_bytes(), through_links=False)


def empty_prefix(prefix: Path) -> None:
    """Remove everything except the journal, the lock of this process, and the user's own files next to them."""
    for path in sorted(prefix.iterdir()):
        if path.name == ENVFORGE_DIRECTORY:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def recreate_command(prefix: Path) -> str:
    """Return the command that removes an environment and installs it again."""
    place = shlex.quote(str(prefix))
    return f"rm -r {place} && envforge install {pylock_word(prefix)}--prefix {place}"


def pylock_word(prefix: Path) -> str:
    """Return the argument of ``install`` for a virtual environment, with a space: its pylock.toml; empty for others."""
    if not is_venv(prefix) and prefix.name != VENV_IN_PROJECT:
        return ""
    path = journal_path(prefix)
    # without hints, and not by `read_journal`, whose hints contain this word
    document = Document(damaged=f"the journal `{path}` is invalid", error=EnvforgeError, code="journal-damaged")
    try:
        stated = Path(document.read_json(document.read_bytes(path), Journal).lockfile)
        is_known = is_pylock(stated) and stated.is_file()
        return f"{shlex.quote(os.path.relpath(stated))} " if is_known else f"{PYLOCK} "
    except (EnvforgeError, ValueError):  # ValueError: on another drive of Windows
        return f"{PYLOCK} "


def kept_lockfile(prefix: Path, lockfile: Path) -> Path:
    """Return the path of the copy of a lockfile in the prefix that was created from it."""
    return prefix / ENVFORGE_DIRECTORY / (PYLOCK if is_pylock(lockfile) else LOCK_FILE)


def record_fault(path: Path, prefix: Path, reason: str) -> EnvforgeError:
    """Return the error for a record in a prefix, of conda or of an installer, that can't be read."""
    return EnvforgeError(
        f"the record `{path}` is invalid: {reason}",
        hint="to create the environment again",
        command=recreate_command(prefix),
        code="record-damaged",
    )


def unfinished(prefix: Path) -> InstallStep | None:
    """Return the last step of an incomplete install, or None if the prefix is complete or has no journal."""
    journal = read_journal(prefix)
    return None if journal is None or journal.step == "verified" else journal.step


if sys.platform != "win32":
    import fcntl


@contextmanager
def lock_prefix(prefix: Path, progress: InstallProgress | None = None) -> Iterator[None]:
    """Lock a prefix for one install; raise ``OutsideError`` with the PID of the process that holds it."""
    from filelock import Timeout  # noqa: PLC0415 - not needed to start a child process

    folder = prefix / ENVFORGE_DIRECTORY
    holder = folder / "holder"
    _refuse_links(prefix)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(folder / "lock", timeout_s=0))
            # the lock of a killed install is free, but its uv may still be writing
            _await_writers(folder, progress or Silent())
            with open_own(holder, "wb") as stream:
                stream.write(f"{os.getpid()}\n".encode())
        except Timeout as error:
            raise OutsideError(
                f"another envforge process (PID {_holder(holder)}) is installing into `{prefix}`",
                hint="wait for it to finish, then try again",
                code="prefix-busy",
            ) from error
        except OSError as error:
            where = f"`{error.filename}`: " if error.filename else ""
            raise OutsideError(
                f"cannot write to the environment `{prefix}`: {where}{error.strerror or error}",
                hint="to use another directory, pass `--prefix DIR`",
                code="prefix-unwritable",
            ) from error
        held.callback(holder.unlink, missing_ok=True)
        yield


def _refuse_links(prefix: Path) -> None:
    """Raise ``EnvforgeError`` if a record of the prefix is a link or a pipe: a repository may contain one."""
    for folder in (prefix / ENVFORGE_DIRECTORY, prefix / "conda-meta"):
        found = [folder] if folder.is_symlink() or (folder.exists() and not folder.is_dir()) else []
        if folder.is_dir() and not found:
            with os.scandir(folder) as entries:
                # a user may link other files there, such as `pinned`, which envforge doesn't write
                mine = (each for each in entries if folder.name != "conda-meta" or _is_written(each.name))
                found = [Path(each.path) for each in mine if not (each.is_dir() or each.is_file()) or each.is_symlink()]
        for path in found:
            raise EnvforgeError(
                f"`{path}` is not a regular file or directory, and envforge writes no others",
                hint="to create the environment again",
                command=recreate_command(prefix),
                code="record-damaged",
            )


def _is_written(name: str) -> bool:
    return name == "history" or name.endswith(".json")


@contextmanager
def mark_writing(prefix: Path) -> Iterator[tuple[int, ...]]:
    """Yield the file descriptors that a child process must inherit if it changes a prefix; none on Windows."""
    if sys.platform == "win32":
        yield ()
    else:
        with open_own(prefix / ENVFORGE_DIRECTORY / "writers", "wb") as stream:
            # uv inherits the open file, and with it the lock, which lasts until uv has ended
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield (stream.fileno(),)


def _await_writers(folder: Path, progress: InstallProgress) -> None:
    if sys.platform != "win32" and (folder / "writers").exists():
        with open_own(folder / "writers", "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note("waiting for the uv process of an interrupted install to finish")
                fcntl.flock(stream, fcntl.LOCK_EX)


def _holder(path: Path) -> str:
    try:
        return regular(path).read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
