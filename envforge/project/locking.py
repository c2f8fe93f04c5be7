"""Obtain the lockfile of a project: from a catalogue that has one of exactly this environment, else by a solve."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from envforge import catalogue
from envforge.errors import OutsideError
from envforge.mirrors import Mirrors
from envforge.resources import lockfiles_root
from envforge.spec import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE, EnvironmentTexts

if TYPE_CHECKING:
    from envforge.lock import LockRequest, Step
    from envforge.sharing.settings import Chosen

Origin = Literal["catalogue", "solved", "to-solve", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockWay:
    """How to obtain the lock. ``fresh`` ignores the catalogues; ``team`` is searched before the built-in one."""

    wanted: bool = True
    fresh: bool = False
    dry_run: bool = False
    conda_exe: Path | None = None
    mirrors: Mirrors = Mirrors()  # noqa: RUF009 - a frozen value
    team: Chosen | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectLock:
    """The lock of a new project.

    ``date`` is the day of publication if the lock has a ``publisher``, which means a team's catalogue. For the built-in
    catalogue, it is the date of the newest record in the lock.
    """

    origin: Origin
    text: str | None = None
    entry: str = ""
    publisher: str = ""
    date: dt.date | None = None
    requirements: str = ""
    warnings: tuple[str, ...] = ()


def obtain_lock(texts: EnvironmentTexts, way: LockWay, progress: Callable[[Step], None]) -> ProjectLock:
    """Find or solve the lock for ``texts``, and report each step to ``progress``."""
    if not way.wanted:
        return ProjectLock(origin="none")
    found = find_lock(texts, way, progress)
    if found is not None:
        return found
    return ProjectLock(origin="to-solve") if way.dry_run else _solve(texts, way, progress)


def find_lock(texts: EnvironmentTexts, way: LockWay, progress: Callable[[Step], None]) -> ProjectLock | None:
    """Return the lock of exactly these texts from the team's catalogue or the built-in one; None if neither has it."""
    if way.fresh:
        return None
    found = None if way.team is None else _from_team(texts.sha256, way.team, progress)
    if found is not None:
        return found
    entry = catalogue.find(lockfiles_root(), texts.sha256)
    return None if entry is None else _from_catalogue(entry, progress)


def _from_team(input_sha256: str, team: Chosen, progress: Callable[[Step], None]) -> ProjectLock | None:
    """Find the lock in the team's catalogue; skip a catalogue that can't be reached, raise if it is invalid."""
    from envforge.sharing.opened import NoCatalogueError, lock_text, opened  # noqa: PLC0415 - only if a team has a catalogue

    try:
        with opened(team.address, team.public_key) as source:
            entry = catalogue.find(source.root, input_sha256)
            return None if entry is None else _filled(entry, lock_text(source, entry, team.public_key), progress)
    except (OutsideError, NoCatalogueError) as error:
        _telling(progress)(f"skipping the catalogue that {team.source} names: {error.message}")
        return None


def _from_catalogue(entry: catalogue.Entry, progress: Callable[[Step], None]) -> ProjectLock:
    return _filled(entry, catalogue.verified_text(entry), progress)


def _filled(entry: catalogue.Entry, text: str, progress: Callable[[Step], None]) -> ProjectLock:
    return ProjectLock(
        origin="catalogue",
        text=catalogue.filled(text, str(entry.path), _telling(progress)),
        entry=f"{entry.template} {entry.variant}" if entry.published is None else entry.name,
        publisher="" if entry.published is None else entry.published.by,
        date=entry.date,
        requirements=entry.requirements.words,
    )


def _telling(progress: Callable[[Step], None]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        from envforge.lock import Step  # noqa: PLC0415 - most locks of the catalogue need no message

        progress(Step(text=text, is_note=True))

    return tell


def _solve(texts: EnvironmentTexts, way: LockWay, progress: Callable[[Step], None]) -> ProjectLock:
    from envforge.lock.locking import lock  # noqa: PLC0415 - slow to import, and a lock of the catalogue needs none

    with request_aside(texts, way) as request:
        report = lock(request, progress)
        text = request.lockfile.read_text(encoding="utf-8")
    return ProjectLock(origin="solved", text=text, warnings=report.warnings)


@contextmanager
def request_aside(texts: EnvironmentTexts, way: LockWay) -> Iterator[LockRequest]:
    """Yield a request to lock ``texts`` in a temporary directory, which is removed at the end of the block."""
    from envforge.lock import LockRequest  # noqa: PLC0415 - slow to import, and a lock of the catalogue needs none

    with tempfile.TemporaryDirectory(prefix="envforge-lock-") as name:
        folder = Path(name)
        for file, text in ((ENVIRONMENT_FILE, texts.environment), (VIRTUAL_PACKAGES_FILE, texts.virtual_packages)):
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
        yield LockRequest(
            environment=folder / ENVIRONMENT_FILE,
            lockfile=folder / LOCK_FILE,
            conda_exe=way.conda_exe,
            mirrors=way.mirrors,
            is_aside=True,
        )
