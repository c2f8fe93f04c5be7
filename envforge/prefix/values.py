"""Define the immutable values of an install: requests, reports, and progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from msgspec import Struct

from envforge.base.urls import Mirrors
from envforge.lock.lockfile import Manager
from envforge.lock.plan import Artifact
from envforge.machine.values import Machine

InstallStep = Literal[
    "planned", "conda done", "wheels done", "verified"
]  # the third is in journals of earlier versions
Outcome = Literal["installed", "completed", "updated", "unchanged"]


class Retry(Struct, frozen=True, kw_only=True):
    """Delays before the retries of a request, and its timeout, in seconds."""

    delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    timeout_s: float = 30.0


class MachineHere(Protocol):
    """Function that detects this machine."""

    def __call__(self, *, driver: bool) -> Machine:
        """Return this machine; its driver and GPUs, which are slow to query, are valid only with ``driver``."""


class InstallRequest(Struct, frozen=True, kw_only=True):
    """One install. ``cache`` is the directory of downloaded and unpacked packages; None means the user's default.

    ``force`` allows a prefix that envforge did not create. ``run_scripts`` runs the packages' link scripts. The
    requirements of the lockfile are compared with ``machine``, or not checked if it is None. ``ignore_machine`` turns
    unmet requirements into warnings. ``allow_builds`` lets source distributions run their own code. ``reinstall`` lists
    packages, by manager, to install again even if they seem intact. Files in ``supply`` are not downloaded. ``reread``
    reads unpacked files even if they look unchanged. ``estimate`` requests the sizes of all files before the download,
    so that progress can show the remaining time. ``categories`` limits the install to packages of these categories;
    empty means those of ``DEFAULT_CATEGORIES``. ``access_variables`` are the environment variables that URLs may refer
    to; an install sets them to those that the lockfile lists.
    """

    lockfile: Path
    prefix: Path
    platform: str
    offline: bool = False
    force: bool = False
    mirrors: Mirrors = Mirrors()
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
    categories: tuple[str, ...] = ()
    access_variables: tuple[str, ...] = ()


class InstallReport(Struct, frozen=True, kw_only=True):
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


class PlannedPackage(Struct, frozen=True, kw_only=True):
    """A package that an install would link. ``bytes`` is None if its server didn't report a size."""

    label: str
    is_cached: bool
    bytes: int | None


class Preview(Struct, frozen=True, kw_only=True):
    """Preview of an install."""

    prefix: Path
    lockfile: Path
    platform: str
    files: tuple[PlannedPackage, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    warnings: tuple[str, ...] = ()


class Changes(Struct, frozen=True, kw_only=True):
    """The smallest set of changes that makes a prefix match a plan.

    ``wheels_replaced`` are uninstalled before conda packages with the same files are linked.
    """

    conda: tuple[Artifact, ...]
    conda_kept: tuple[str, ...]
    conda_removed: tuple[str, ...]
    wheels: tuple[Artifact, ...]
    wheels_removed: tuple[str, ...]
    wheels_replaced: tuple[str, ...] = ()
    venv_kept: bool = False  # the prefix is a virtual environment with the Python of the lockfile


class Supply(Protocol):
    """Package files that come with the request, such as a bundle. They are verified like downloads."""

    def holds(self, artifact: Artifact) -> bool:
        """Return whether the file of a package is available."""

    def open(self, artifact: Artifact) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """Open the file of a package; returns the stream and its size in bytes."""


class InstallProgress(Protocol):
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


@contextmanager
def progress_step(
    progress: InstallProgress, step: str, total: int | None, unit: Literal["bytes", "packages"]
) -> Iterator[None]:
    """Report a step of ``total`` bytes or packages, which ends with the block."""
    progress.begin(step, total, unit)
    try:
        yield
    finally:
        progress.end()


class Silent:
    """Progress that discards all reports."""

    def _ignore(self, *_: object) -> None:
        """Do nothing."""

    begin = advance = enlarge = end = note = _ignore
