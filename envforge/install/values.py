"""What is asked of an install, what it works on, and what it reports: frozen values without effects."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol
from urllib.parse import unquote

from envforge.lockfile import LockedPackage, Manager
from envforge.machine import Machine
from envforge.mirrors import Mirrors

Step = Literal["planned", "conda done", "wheels done", "verified"]
Outcome = Literal["installed", "completed", "updated", "unchanged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a request is repeated, and how long before each repetition, in seconds."""

    delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    timeout_s: float = 30.0


class MachineHere(Protocol):
    """Tells what this computer is, once that is asked."""

    def __call__(self, *, driver: bool) -> Machine:
        """The computer; its driver and GPUs count only where ``driver`` says so, and asking them is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallRequest:
    """One install. ``cache`` is the folder of downloaded and unpacked packages; ``None`` means the user's own.

    ``force`` allows a prefix that envforge did not make; ``run_scripts`` runs the packages' link scripts. ``machine``
    tells what the lock's needs are compared with; ``None`` compares nothing. ``ignore_machine``
    turns a need that is not met into a warning; ``allow_builds`` lets source distributions run their own code.
    ``reinstall`` names packages, by manager, that are installed again although they seem to be there. What ``supply``
    holds is not asked of a server. ``reread`` reads unpacked files even if they look unchanged.
    ``estimate`` requests the sizes of all files before the download, so that progress can show the time left.
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
    """What an install did. ``scripts`` names the packages whose link scripts were not run."""

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
    """What an install would do."""

    prefix: Path
    lockfile: Path
    platform: str
    files: tuple[PlannedFile, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    warnings: tuple[str, ...] = ()


class Supply(Protocol):
    """Package files that came with the request: a bundle. They are checked like downloads."""

    def holds(self, artifact: Artifact) -> bool:
        """Whether the file of a package is there."""

    def open(self, artifact: Artifact) -> AbstractContextManager[tuple[BinaryIO, int]]:
        """The bytes of a package, and how many there are."""


class Progress(Protocol):
    """Who is told how far an install is: a terminal, a log, or nobody. Called from several threads."""

    def begin(self, step: str, total: int | None, unit: Literal["bytes", "packages"]) -> None:
        """Start a step of ``total`` bytes or packages; ``None`` where the total is not known."""

    def advance(self, amount: int) -> None:
        """Say that so much more of the current step is done."""

    def enlarge(self, amount: int) -> None:
        """Say that the current step has so much more to do than was known."""

    def end(self) -> None:
        """End the current step."""

    def note(self, text: str) -> None:
        """Say one line that matters to people."""


class Silent:
    """Nobody is told."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """The checksum that a file must have."""

    algorithm: Literal["sha256", "md5"]
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One locked package with the file that it is: a conda archive or a wheel."""

    package: LockedPackage
    digest: Digest

    @property
    def file_name(self) -> str:
        """The name on disk: decoded, as wheel and archive names are compared."""
        return unquote(self.package.file_name)

    @property
    def is_source(self) -> bool:
        """Whether this is a source distribution, which has to be built."""
        return self.package.manager == "pip" and not self.file_name.endswith(".whl")

    @property
    def label(self) -> str:
        """How people call it: ``torch 2.7.1+cu118``."""
        return f"{self.package.name} {self.package.version}"
