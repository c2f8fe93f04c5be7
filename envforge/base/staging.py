"""Replace files of a directory in one transaction, and delay interrupts until it can be undone.

Each file is renamed from the staging directory under a journal. An interrupted run is undone: immediately if Python
still runs, otherwise by the next run.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from envforge.base.documents import Document
from envforge.base.envelope import to_json
from envforge.base.files import file_lock, sync_folder, write_synced
from envforge.errors import EnvforgeError, OutsideError

if TYPE_CHECKING:
    from typing_extensions import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within ``with Interrupts() as interrupts``, signals arrive only at ``interrupts.check()`` and at the end."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python handles signals only in the main thread
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` and a shell's `&` ignore it
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # it accepts what signal.signal returned
        if self._received is not None:
            signal.raise_signal(self._received)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has arrived, so that the caller undoes its changes."""
        if self._received is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number


STAGING = ".envforge-new"
_JOURNAL = "journal.json"
_COMMITTED = "committed"
_LOCK = "lock"
_OPEN_AT_ONCE = 100  # systems allow 256 and more
_OURS = {"new", "old", _JOURNAL, f"{_JOURNAL}.tmp", _COMMITTED, _LOCK}


class TargetError(EnvforgeError):
    """The target can't be written into."""


class PlannedFile(Struct, frozen=True, kw_only=True):
    """One file of the project: its path from the target, and its bytes."""

    path: PurePosixPath
    content: bytes
    executable: bool = False


class Swap(Struct, frozen=True, kw_only=True):
    """What changes in a target; ``removed`` and ``kept`` name existing files.

    ``kept`` pairs a user's file, whose path a new file needs, with the name that it gets.
    """

    files: tuple[PlannedFile, ...]
    removed: tuple[PurePosixPath, ...] = ()
    kept: tuple[tuple[PurePosixPath, PurePosixPath], ...] = ()


def perform(swap: Swap, stage: Path, target: Path, interrupts: Interrupts) -> None:
    """Perform a swap through the directory of ``staging``; raise ``TargetError`` if it would write through a link."""
    for path in (*swap.removed, *(file.path for file in swap.files)):
        if (link := _link_on_the_way(path, (target.resolve(),))) is not None:
            raise TargetError(
                f"`{link}` is a symbolic link, so `{target / path}` may be outside the project; nothing was written",
                hint="put a directory in place of the link, and run the command again",
                code="target-linked",
            )
    # all bytes are on disk before the journal: from then on there are only renames, which can be undone
    write_tree(swap.files, stage / "new", interrupts)
    _write_journal(swap, stage, target)
    for path in (*swap.removed, *(file.path for file in swap.files)):
        interrupts.check()
        _swap_in(path, stage, target)
    for folder in {target / path.parent for path in (*swap.removed, *(file.path for file in swap.files))}:
        sync_folder(folder)
    interrupts.check()
    write_synced(stage / _COMMITTED, b"")


def settle_interrupted(target: Path) -> bool:
    """Undo or complete the change of a killed run inside ``target``; return whether there was one."""
    if target.is_symlink() or not (target / STAGING).is_dir():
        return False
    with Interrupts(), disk_errors(target), staging(target):
        return True


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Convert errors of the disk, and add the state of the target."""
    try:
        yield
    except OSError as error:
        state = "the next run undoes the incomplete change" if (target / STAGING).is_dir() else "nothing was written"
        raise OutsideError(
            f"cannot write into `{target}`: {error.strerror or error}; {state}",
            hint="to continue, free disk space on that file system, and run the command again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "to continue, make that directory writable, and run the command again",
            code="cannot-write",
        ) from error


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield a staging directory that only this process uses; at the end, complete or undo what its journal lists."""
    from filelock import Timeout  # noqa: PLC0415 - slow to import; a new target does not need it

    stage = target / STAGING
    stage.mkdir(exist_ok=True)
    if stage.is_symlink() or {entry.name for entry in stage.iterdir()} - _OURS:
        raise TargetError(
            f"`{stage}` contains files that envforge didn't write",
            hint="to move it out of the way",
            command=f"mv {shlex.quote(str(stage))} {shlex.quote(f'{stage}.orig')}",
            code="staging-taken",
        )
    try:
        with file_lock(stage / _LOCK, timeout_s=0):
            try:
                _settle(stage, target)
                yield stage
            finally:
                _settle(stage, target)
                if os.name != "nt":  # Windows can't remove a lock file that is held; the directory remains
                    shutil.rmtree(stage)
    except Timeout as error:
        raise TargetError(
            f"another envforge process is writing into `{target}` (it holds `{stage / _LOCK}`)",
            hint="wait for it to finish, then run the command again",
            code="target-busy",
        ) from error


class _SwapJournal(Struct, frozen=True, kw_only=True):
    """What a change does to the target, as paths relative to it; ``folders`` are those that it creates."""

    created: tuple[str, ...]
    replaced: tuple[str, ...]
    folders: tuple[str, ...]
    kept: dict[str, str]
    removed: tuple[str, ...] = ()


def _read_journal(stage: Path, target: Path) -> _SwapJournal:
    path = stage / _JOURNAL
    document = Document(
        damaged=f"the journal `{path}` of an interrupted change is invalid",
        error=TargetError,
        code="bad-journal",
        hint="to move it out of the way",
        command=f"mv {shlex.quote(str(path.parent))} {shlex.quote(f'{path.parent}.orig')}",
    )
    journal = document.read_json(document.read_bytes(path), _SwapJournal)
    # a cloned repository may contain a journal, so undoing it must not reach files outside
    named = (journal.created, journal.replaced, journal.folders, journal.removed, journal.kept, journal.kept.values())
    for text in (text for texts in named for text in texts):
        place = PurePosixPath(text)
        if place.is_absolute() or {"..", ".git"} & {part.lower() for part in place.parts} or "\0" in text:
            raise document.fault("", "paths inside the project", text)
        if _link_on_the_way(place, (target.resolve(), stage / "old", stage / "new")) is not None:
            raise document.fault("", "paths that lead through no symbolic link", text)
    return journal


def _link_on_the_way(path: PurePosixPath, roots: Iterable[Path]) -> Path | None:
    """Return the first symbolic link among the directories that a path names in the roots."""
    folders = (root / parent for root in roots for parent in path.parents)
    return next((folder for folder in folders if folder.is_symlink()), None)


def _write_journal(swap: Swap, stage: Path, target: Path) -> None:
    folders = {parent for file in swap.files for parent in file.path.parents if not (target / parent).is_dir()}
    there = {file.path: os.path.lexists(target / file.path) for file in swap.files}
    journal = _SwapJournal(
        created=tuple(str(path) for path, exists in there.items() if not exists),
        replaced=tuple(str(path) for path in (*swap.removed, *(path for path, exists in there.items() if exists))),
        removed=tuple(str(path) for path in swap.removed),
        folders=tuple(sorted(str(folder) for folder in folders)),
        kept={str(path): str(name) for path, name in swap.kept},
    )
    write_synced(stage / f"{_JOURNAL}.tmp", json.dumps(to_json(journal)).encode())
    (stage / f"{_JOURNAL}.tmp").rename(stage / _JOURNAL)
    sync_folder(stage)


def _swap_in(path: PurePosixPath, stage: Path, target: Path) -> None:
    there, old = target / path, stage / "old" / path
    there.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(there):
        old.parent.mkdir(parents=True, exist_ok=True)
        there.rename(old)
    if (stage / "new" / path).exists():
        (stage / "new" / path).rename(there)


def _settle(stage: Path, target: Path) -> None:
    """Complete what was committed, undo what wasn't, and empty the staging directory except for its lock."""
    journal_file = stage / _JOURNAL
    if journal_file.exists():
        journal = _read_journal(stage, target)
        if (stage / _COMMITTED).exists():
            _keep_originals(journal.kept, stage, target)
            parents = {
                str(parent) for path in journal.removed for parent in PurePosixPath(path).parents if parent.parts
            }
            _remove_empty(parents, target)
        else:
            _undo(journal, stage, target)
        journal_file.unlink()
    for name in (_COMMITTED, f"{_JOURNAL}.tmp"):
        (stage / name).unlink(missing_ok=True)
    for name in ("new", "old"):
        if (stage / name).is_dir():
            shutil.rmtree(stage / name)


def _keep_originals(kept: dict[str, str], stage: Path, target: Path) -> None:
    for path, name in kept.items():
        if os.path.lexists(stage / "old" / path):
            (stage / "old" / path).rename(target / name)


def _remove_empty(folders: Iterable[str], target: Path) -> None:
    """Remove directories that are empty now, innermost first."""
    for folder in sorted(folders, key=len, reverse=True):
        if (target / folder).is_dir() and not any((target / folder).iterdir()):
            (target / folder).rmdir()


def _undo(journal: _SwapJournal, stage: Path, target: Path) -> None:
    """Restore every file. An undo can be interrupted too, so each step does nothing if it was done before."""
    for path in journal.replaced:
        if os.path.lexists(stage / "old" / path):
            (stage / "old" / path).replace(target / path)
    for path in journal.created:
        if not (stage / "new" / path).exists():
            (target / path).unlink(missing_ok=True)
    _remove_empty(journal.folders, target)


def write_tree(files: tuple[PlannedFile, ...], root: Path, interrupts: Interrupts) -> None:
    """Write files into a new directory, and flush them to disk."""
    root.mkdir()
    folders = {parent for file in files for parent in file.path.parents}
    for folder in sorted(folders)[1:]:  # the first is `root` itself, and each comes before those inside it
        (root / folder).mkdir()
    for start in range(0, len(files), _OPEN_AT_ONCE):
        _write_together(files[start : start + _OPEN_AT_ONCE], root, interrupts)
    for folder in folders or {PurePosixPath()}:
        sync_folder(root / folder)


def _write_together(files: tuple[PlannedFile, ...], root: Path, interrupts: Interrupts) -> None:
    with ExitStack() as opened:
        streams = []
        for file in files:
            interrupts.check()
            streams.append(opened.enter_context(_new_file(root / file.path, executable=file.executable)))
            streams[-1].write(file.content)
            streams[-1].flush()
            if sys.platform == "linux":  # start writeback, so that one file system commit covers all files
                os.posix_fadvise(streams[-1].fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for stream in streams:
            interrupts.check()
            os.fsync(stream.fileno())


def _new_file(path: Path, *, executable: bool) -> BinaryIO:
    """Create a file and open it for writing, with the permissions that the umask allows; raise if it exists."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o777 if executable else 0o666), "wb")


# learn.microsoft.com, "Naming Files, Paths, and Namespaces": device names that no file may have, with any extension
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
_FORBIDDEN = frozenset('<>:"|?*\\')  # characters that no name may have, from the same page
_LONGEST_NAME = 200
_OTHERS = (".git", ".hg", ".svn", ".envforge", ".conda", STAGING)  # git runs files there, or envforge owns it


def is_windows_device(name: str) -> bool:
    """Return whether Windows reserves a file name for a device, with any extension."""
    return name.partition(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES


def fault_of_name(name: str) -> str:
    """Return why a file of a project can't have a directory or a file of this name in its path; empty if it can."""
    if name in ("..", "."):
        return "leads outside the project"
    if name.lower() in _OTHERS:
        return "is a directory of another tool"
    if not name.isprintable() or _FORBIDDEN & set(name):
        return "contains characters that some file systems reject"
    if name != name.rstrip(" ."):
        return "ends with a space or a dot, which Windows removes"
    if is_windows_device(name):
        return "is a device name on Windows"
    return f"is longer than {_LONGEST_NAME} bytes" if len(name.encode()) > _LONGEST_NAME else ""
