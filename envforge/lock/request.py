"""Define the request for a lockfile, the report, and the steps in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from envforge.lock.cutoff import Cutoff
from envforge.lockfile import Lockfile
from envforge.mirrors import Mirrors

VIRTUAL_PACKAGES = "virtual-packages.yml"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockRequest:
    """One run of ``envforge lock``.

    ``platforms`` replaces those of the file. ``virtual_packages`` defaults to ``virtual-packages.yml`` next to the
    environment. ``conda_exe`` replaces the embedded solver, ``python_index`` the configured package index.
    ``verify_hashes`` downloads every wheel, even if the index states its SHA-256. ``upgrade`` selects all versions
    again, ``upgrade_packages`` those of the named packages. ``exclude_newer`` defaults to the date in the lockfile.
    ``environment_text`` replaces the contents of ``environment``. ``source`` is the file to edit if ``environment`` is
    derived from it; ``is_aside`` marks temporary files, which no hint may name.
    """

    environment: Path
    lockfile: Path
    platforms: tuple[str, ...] = ()
    virtual_packages: Path | None = None
    conda_exe: Path | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    python_index: str | None = None
    verify_hashes: bool = False
    upgrade: bool = False
    upgrade_packages: tuple[str, ...] = ()
    exclude_newer: Cutoff | None = None
    environment_text: str | None = None
    source: Path | None = None
    is_aside: bool = False

    def command(self, name: str, *words: str) -> str:
        """Return ``envforge NAME WORDS`` for the files of this request, for hints; empty if they are temporary."""
        from envforge.lock.project import project_command  # noqa: PLC0415 - only errors need it

        if self.is_aside:
            return ""
        return project_command(name, self.source or self.environment, None if self.source else self.lockfile, words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The current step; ``done_bytes`` and ``total_bytes`` are set while a wheel is downloaded.

    ``is_note`` marks a message that must be shown, such as where the files of a stored lockfile come from.
    """

    text: str
    done_bytes: int | None = None
    total_bytes: int | None = None
    is_note: bool = False


Progress = Callable[[Step], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformSummary:
    """What was locked for one platform. ``bytes`` is the size of ``sized`` files; ``unsized`` names the other files."""

    platform: str
    conda: int
    pip: int
    torch: str | None
    bytes: int
    sized: int
    unsized: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LockReport:
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
