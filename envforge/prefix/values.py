"""Define the immutable values of an install and an audit: requests, reports, findings, and progress."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from envforge.base.net import Mirrors
from envforge.lock.lockfile import Manager
from envforge.lock.plan import Artifact
from envforge.machine.values import Machine

Step = Literal["planned", "conda done", "wheels done", "verified"]
Outcome = Literal["installed", "completed", "updated", "unchanged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Delays before the retries of a request, and its timeout, in seconds."""

    delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    timeout_s: float = 30.0


class MachineHere(Protocol):
    """Function that detects this machine."""

    def __call__(self, *, driver: bool) -> Machine:
        """Return this machine; its driver and GPUs, which are slow to query, are valid only with ``driver``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallRequest:
    """One install. ``cache`` is the directory of downloaded and unpacked packages; None means the user's default.

    ``force`` allows a prefix that envforge did not create. ``run_scripts`` runs the packages' link scripts. The
    requirements of the lockfile are compared with ``machine``, or not checked if it is None. ``ignore_machine`` turns
    unmet requirements into warnings. ``allow_builds`` lets source distributions run their own code. ``reinstall`` lists
    packages, by manager, to install again even if they seem intact. Files in ``supply`` are not downloaded. ``reread``
    reads unpacked files even if they look unchanged. ``estimate`` requests the sizes of all files before the download,
    so that progress can show the remaining time.
    """

    lockfile: Path
    prefix: Path
    platform: str
    offline: bool = False
    force: bool = False
    mirrors: Mirrors = Mirrors()  # noqa: RUF009 - frozen
    run_scripts: bool = False
    cache: Path | None = None
    retry: Retry = Retry()
    machine: MachineHere | None = None
    ignore_machine: bool = False
    allow_builds: bool = False
    reinstall: frozenset[tuple[Manager, str]] = frozenset()
    supply: Supply | None = None
    reread: bool = False
    estimate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallReport:
    """Result of an install. ``scripts`` lists the packages whose link scripts were not run."""

    prefix: Path
    lockfile: Path
    platform: str
    outcome: Outcome
    linked: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    downloaded_bytes: int = 0
    warnings: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFile:
    """A package that an install would link. ``bytes`` is None if its server didn't report a size."""

    label: str
    is_cached: bool
    bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Preview of an install."""

    prefix: Path
    lockfile: Path
    platform: str
    files: tuple[PlannedFile, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    warnings: tuple[str, ...] = ()


class Supply(Protocol):
    """Package files that come with the request, such as a bundle. They are verified like downloads."""

    def holds(self, artifact: Artifact) -> bool:
        """Return whether the file of a package is available."""

    def open(self, artifact: Artifact) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """Open the file of a package; returns the stream and its size in bytes."""


class Progress(Protocol):
    """Receiver of progress reports: a terminal, a log, or nothing. Its methods are called from several threads."""

    def begin(self, step: str, total: int | None, unit: Literal["bytes", "packages"]) -> None:
        """Start a step of ``total`` bytes or packages; ``total`` is None if it is unknown."""

    def advance(self, amount: int) -> None:
        """Add ``amount`` to the completed part of the current step."""

    def enlarge(self, amount: int) -> None:
        """Add ``amount`` to the total of the current step."""

    def end(self) -> None:
        """End the current step."""

    def note(self, text: str) -> None:
        """Report one line to the user."""


class Silent:
    """Progress that discards all reports."""

    def begin(self, step: str, total: int | None, unit: Literal["bytes", "packages"]) -> None:
        """Do nothing."""

    def advance(self, amount: int) -> None:
        """Do nothing."""

    def enlarge(self, amount: int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


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
