"""Record the state of a prefix, lock it, and compute the changes to it.

The journal is ``PREFIX/.envforge/journal.json`` and is replaced atomically. Until its step is ``verified``, the prefix
is incomplete.

An install holds ``PREFIX/.envforge/lock``. Each uv that it starts holds ``PREFIX/.envforge/writers``, because the child
inherits the open file. That lock remains held if the parent is killed while uv still writes.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from envforge.base.files import write_atomic
from envforge.base.records import Document, Fields, one_of, read_boolean, read_string, show_as_json
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.lockfile import Manager
from envforge.lock.plan import (
    Artifact,
    Plan,
    Wheel,
    wheel_of,
)
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.values import Progress, Silent, Step

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The state of one prefix.

    ``fingerprint`` identifies the packages of the lockfile. ``created`` means that the directory was empty before the
    first install, so an incomplete prefix may be emptied again. ``conda`` contains the names of the records in
    conda-meta, ``wheels`` what uv has installed or is about to install.
    """

    step: Step
    fingerprint: str
    lockfile: str
    platform: str
    created: bool
    conda: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @property
    def unfinished(self) -> str:
        """Description of an incomplete prefix, the same for every command."""
        return f"incomplete (last step: `{self.step}`)"

    def at(self, step: Step) -> Journal:
        """Return the journal with another step."""
        return replace(self, step=step)


def journal_path(prefix: Path) -> Path:
    """Return the path of the journal of a prefix."""
    return prefix / ENVFORGE_DIRECTORY / "journal.json"


def read_journal(prefix: Path) -> Journal | None:
    """Return the journal of a prefix, or None if it has none; raise ``EnvforgeError`` if it is invalid."""
    path = journal_path(prefix)
    document = Document(
        damaged=f"the journal `{path}` is invalid",
        error=EnvforgeError,
        code="journal-damaged",
        hint="to create the environment again",
        command=recreate_command(prefix),
        mapping="an object",
        show=show_as_json,
    )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise document.fault("", "a text file", str(error)) from error
    return _journal(document.read_json(text))


def _journal(top: Fields) -> Journal:
    if top.raw("schema_version") != SCHEMA_VERSION:
        raise top.fault("schema_version", str(SCHEMA_VERSION), top.raw("schema_version"))
    return Journal(
        step=top.need("step", one_of(get_args(Step))),
        fingerprint=top.need("fingerprint", read_string),
        lockfile=top.need("lockfile", read_string),
        platform=top.need("platform", read_string),
        created=top.need("created", read_boolean),
        conda=top.list_of("conda", read_string),
        wheels=tuple(
            Wheel(
                name=wheel.need("name", read_string),
                version=wheel.need("version", read_string),
                sha256=wheel.need("sha256", read_string),
            )
            for wheel in top.items("wheels")
        ),
    )


def write_journal(prefix: Path, journal: Journal) -> None:
    """Record a step; after a crash, the file is either the old or the new journal."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(journal)}, indent=1, sort_keys=True) + "\n"
    write_atomic_bytes(journal_path(prefix), text.encode())


def recreate_command(prefix: Path) -> str:
    """Return the command that removes an environment and installs it again."""
    place = shlex.quote(str(prefix))
    return f"rm -r {place} && envforge install --prefix {place}"


def write_atomic_bytes(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Replace a file of a prefix or of the cache atomically; a link, which a package may contain, is replaced too."""
    write_atomic(path, data, synced=synced, through_links=False)


def unfinished(prefix: Path) -> Step | None:
    """Return the last step of an incomplete install, or None if the prefix is complete or has no journal."""
    journal = read_journal(prefix)
    return None if journal is None or journal.step == "verified" else journal.step


if sys.platform != "win32":
    import fcntl


@contextmanager
def lock_prefix(prefix: Path, progress: Progress | None = None) -> Iterator[None]:
    """Lock a prefix for one install; raise ``OutsideError`` with the PID of the process that holds it."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - not needed to start a child process

    folder = prefix / ENVFORGE_DIRECTORY
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
def mark_writing(prefix: Path) -> Iterator[tuple[int, ...]]:
    """Yield the file descriptors that a child process must inherit if it changes a prefix; none on Windows."""
    if sys.platform == "win32":
        yield ()
    else:
        with (prefix / ENVFORGE_DIRECTORY / "writers").open("wb") as stream:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The smallest set of changes that makes a complete prefix match a plan."""

    conda: tuple[Artifact, ...]
    conda_kept: tuple[str, ...]
    conda_removed: tuple[str, ...]
    wheels: tuple[Artifact, ...]
    wheels_removed: tuple[str, ...]


def compute_changes(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    reinstall: frozenset[tuple[Manager, str]] = frozenset(),
) -> Changes:
    """Compare a plan with a prefix.

    ``conda`` maps the names of the prefix's conda packages to the checksums of their archives. ``wheels`` are the
    normalized names of the distributions that pip or uv installed. ``reinstall`` lists packages to install again even
    if they match.
    """
    wanted = {artifact.package.name: artifact for artifact in plan.conda}
    same = {name for name, a in wanted.items() if a.digest.hex in conda.get(name, ())}
    kept = {name for name in same if ("conda", name) not in reinstall}
    trusted = {name for name in wheels if ("pip", name) not in reinstall}
    known = {wheel.name: wheel for wheel in (journal.wheels if journal else ()) if wheel.name in trusted}
    python_kept = "python" in same or "python" not in wanted
    names = {wheel_of(artifact).name for artifact in plan.wheels}
    return Changes(
        conda=tuple(artifact for name, artifact in wanted.items() if name not in kept),
        conda_kept=tuple(sorted(kept)),
        conda_removed=tuple(sorted(set(conda) - set(wanted))),
        wheels=tuple(a for a in plan.wheels if not python_kept or known.get(wheel_of(a).name) != wheel_of(a)),
        wheels_removed=tuple(sorted(wheels - names)),
    )
