"""Define the immutable values of an audit: request, findings, report, and repair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envforge.lock.lockfile import Manager

Kind = Literal[
    "package-missing",
    "package-extra",
    "package-version",
    "package-build",
    "package-origin",
    "package-editable",
    "file-changed",
    "file-missing",
    "file-stray",
    "owned-twice",
    "openmp",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """One audit. ``lockfile`` None means the one that the prefix was created from; ``full`` reads every file again.

    ``platform`` is used if the prefix has no journal that states its platform.
    """

    prefix: Path
    platform: str
    lockfile: Path | None = None
    full: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference or risk. ``package`` and ``manager`` identify the owner; they are empty if there is none."""

    kind: Kind
    text: str
    package: str = ""
    manager: Manager | None = None
    path: str = ""
    wanted: str = ""
    found: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Number of checked packages and files. ``read_files`` and ``read_bytes`` were hashed now, the rest earlier.

    ``unowned_files`` belong to no package and are outside the directories from which Python imports.
    """

    packages: int
    files: int
    bytes: int
    read_files: int
    read_bytes: int
    unowned_files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """Result of an audit. ``drift`` differs from the lockfile; ``warnings`` are risks that the lockfile causes.

    ``digest`` is one SHA-256 over the installed files, independent of the path of the prefix. ``notes`` report problems
    of the audit itself.
    """

    prefix: Path
    lockfile: Path
    platform: str
    drift: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    digest: str
    counts: Counts
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """Result of ``--fix``: packages that were reinstalled or removed, and files that were moved away.

    ``after`` is the audit that followed.
    """

    linked: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    moved_to: Path
    after: AuditReport


def owners(findings: Iterable[Finding]) -> frozenset[tuple[Manager, str]]:
    """Return the packages that findings refer to, by manager and name."""
    return frozenset((found.manager, found.package) for found in findings if found.manager is not None)
