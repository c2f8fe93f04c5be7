"""Describe the request, the progress, and the result of a lock.

py-rattler ignores the time zone of a datetime, so this module returns only UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from envforge.base.urls import Mirrors
from envforge.errors import RequestError
from envforge.lock.lockfile import EXCLUDE_NEWER, Lockfile

_SPAN = re.compile(r"(\d{1,5})\s*(h|d|w)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_HOURS = {"h": 1, "d": 24, "w": 168}


class Cutoff(Struct, frozen=True, kw_only=True):
    """The newest allowed upload time (UTC, inclusive); ``None`` allows all, and overrides the lockfile's cutoff."""

    at: dt.datetime | None

    def __str__(self) -> str:
        return "none" if self.at is None else self.at.isoformat().replace("+00:00", "Z")

    def excludes(self, moment: dt.datetime | None) -> bool:
        """Return whether a file with this upload time is too new; files without a date are allowed."""
        return self.at is not None and moment is not None and moment > self.at


# a lockfile keeps its cutoff until another is given, so that forgetting the option doesn't loosen a reproducible
# lockfile
def parse_cutoff(text: str, now: dt.datetime) -> Cutoff:
    """Parse a date (the day ends in UTC), a time (default: UTC), a span (``12h``, ``7d``, ``2w``), or ``none``.

    A span ends at ``now``. Raises ``RequestError`` for other values and for times in the future.
    """
    text = text.strip()
    if text.lower() == "none":
        return Cutoff(at=None)
    span = _SPAN.fullmatch(text)
    if span is not None:
        return Cutoff(at=_utc(now - dt.timedelta(hours=int(span[1]) * _HOURS[span[2]])))
    try:
        moment = dt.datetime.fromisoformat(f"{text}T23:59:59" if _DATE.fullmatch(text) else _with_zone(text))
    except ValueError as error:
        raise RequestError(
            f"`--exclude-newer {text}` is not a date or a time span: {error}",
            hint="use a date (`2026-01-31`), a time (`2026-01-31T12:00:00+01:00`), a time span (`7d`), or `none`",
            code="bad-date",
        ) from error
    if _utc(moment) > now:
        raise RequestError(
            f"`--exclude-newer {text}` is in the future (now: {Cutoff(at=_utc(now))})",
            hint="use a date in the past, or a time span such as `7d`",
            code="bad-date",
        )
    return Cutoff(at=_utc(moment))


def read_moment(text: str | None) -> dt.datetime | None:
    """Parse a time as written by package indexes, in UTC; return ``None`` if it is missing or invalid."""
    try:
        return _utc(dt.datetime.fromisoformat(_with_zone(text))) if text else None
    except (ValueError, OverflowError):  # in UTC, it may be before the year 1
        return None


def recorded_cutoff(lock: Lockfile) -> Cutoff:
    """Return the cutoff that a lockfile was created with."""
    return Cutoff(at=read_moment(dict(lock.custom_metadata).get(EXCLUDE_NEWER)))


def _with_zone(text: str) -> str:
    # `fromisoformat` of Python 3.10 supports neither `Z` nor fractions other than three or six digits
    text = re.sub(r"[zZ]$", "+00:00", text)
    return re.sub(r"\.(\d+)", lambda match: f".{match[1]:0<6.6}", text)


def _utc(moment: dt.datetime) -> dt.datetime:
    aware = moment.replace(tzinfo=dt.timezone.utc) if moment.tzinfo is None else moment.astimezone(dt.timezone.utc)
    return aware.replace(microsecond=0)


class LockRequest(Struct, frozen=True, kw_only=True):
    """One run of ``envforge lock``.

    ``platforms`` replaces those of the file. ``conda_exe`` replaces the embedded solver, ``python_index`` the
    configured package index. ``verify_hashes`` downloads every wheel, even if the index states its SHA-256. ``upgrade``
    selects all versions again, ``upgrade_packages`` those of the named packages. ``exclude_newer`` defaults to the date
    in the lockfile. ``others`` are further environment files, which are merged with the first. ``categories`` limits
    the lock to the files of these categories. ``environment_text`` replaces the contents of ``environment``, and
    ``virtual_packages`` those of virtual-packages.yml. ``source`` is the file to edit if ``environment`` is derived
    from it; ``is_aside`` marks temporary files, which no hint may name.
    """

    environment: Path
    lockfile: Path
    others: tuple[Path, ...] = ()
    categories: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    conda_exe: Path | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    python_index: str | None = None
    verify_hashes: bool = False
    upgrade: bool = False
    upgrade_packages: tuple[str, ...] = ()
    exclude_newer: Cutoff | None = None
    environment_text: str | None = None
    virtual_packages: str | None = None
    source: Path | None = None
    is_aside: bool = False

    def editing(self, path: Path) -> LockRequest:
        """Return the request with another of its environment files as the first, which commands edit."""
        files = (self.environment, *self.others)
        return replace(self, environment=path, others=tuple(file for file in files if file != path))

    def command(self, name: str, *words: str) -> str:
        """Return ``envforge NAME WORDS`` for the files of this request, for hints; empty if they are temporary."""
        from envforge.lock.project import project_command  # noqa: PLC0415 - only errors need it

        if self.is_aside:
            return ""
        lockfile = None if self.source else self.lockfile
        # `add` and `remove` keep the categories of the lockfile, and have no option for them
        categories = self.categories if name == "lock" else ()
        words = (*(word for category in categories for word in ("--category", category)), *words)
        return project_command(name, self.source or self.environment, lockfile, words, self.others)


class LockStep(Struct, frozen=True, kw_only=True):
    """The current step; ``done_bytes`` and ``total_bytes`` are set while a wheel is downloaded.

    ``is_note`` marks a message that must be shown, such as where the files of a stored lockfile come from.
    """

    text: str
    done_bytes: int | None = None
    total_bytes: int | None = None
    is_note: bool = False


LockProgress = Callable[[LockStep], object]


class PlatformSummary(Struct, frozen=True, kw_only=True):
    """What was locked for one platform. ``bytes`` is the size of ``sized`` files; ``unsized`` names the other files."""

    platform: str
    conda: int
    pip: int
    torch: str | None
    bytes: int
    sized: int
    unsized: tuple[str, ...] = ()


class LockReport(Struct, frozen=True, kw_only=True):
    """A finished lockfile in numbers and in text. ``hashed`` lists the URLs of the wheels that were downloaded.

    ``is_unchanged`` is set if the old lockfile was up to date and nothing was solved; ``changes`` compares with it.
    """

    lockfile: Path
    lock: Lockfile
    platforms: tuple[PlatformSummary, ...]
    virtual_packages: tuple[str, ...]
    virtual_packages_source: str
    hashed: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    is_unchanged: bool = False
    exclude_newer: Cutoff = field(default_factory=lambda: Cutoff(at=None))
    changes: tuple[str, ...] = ()
