"""The contents of a catalogue as frozen values, and the errors for an invalid one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from packaging.version import Version

from envforge.cuda import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError, Hint
from envforge.fields import Document, show_as_json, show_plainly
from envforge.resources import lockfiles_root

INDEX_FILE = "index.json"
SCHEMA_VERSION = 1
LOCK_SUFFIX = ".conda-lock.yml"
PLACEHOLDER = "https://python-index.invalid/packages/"
"""Replaces the root URL of the package index's files in a stored lockfile. ``.invalid`` never resolves (RFC 2606)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """The PyTorch build in a stored lockfile."""

    torch: Version
    torchvision: Version | None
    tag: WheelTag
    python: Version
    index_url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a lockfile requires of a machine, as values and in one sentence.

    The driver versions are the oldest on Linux for direct use and for CUDA minor-version compatibility.
    ``download_bytes`` is the size of the ``files_sized`` files whose size is known, out of ``files``.
    """

    driver_direct: Version | None
    driver_minor_compatible: Version | None
    compute_capabilities: tuple[ComputeCapability, ...]
    ptx: tuple[ComputeCapability, ...]
    glibc: Version | None
    macos: Version | None
    download_bytes: int
    files: int
    files_sized: int
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Who added an entry to a team's catalogue, and when (UTC). Both are stated by the publisher, not verified."""

    by: str
    at: dt.datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One stored lockfile. ``date`` is the day (UTC) of its newest package record, or of its publication.

    ``published`` is set only in a team's catalogue. ``signed_by`` is the id of the minisign key of the signature next
    to the lockfile.
    """

    root: Path
    template: str
    variant: str
    platforms: tuple[str, ...]
    file: PurePosixPath
    sha256: str
    input_sha256: str
    date: dt.date
    selection: Selected
    requirements: Requirements
    size_bytes: int | None = None
    published: Publication | None = None
    signed_by: str | None = None

    @property
    def name(self) -> str:
        """The name to display: the file without its suffix."""
        return str(self.file).removesuffix(LOCK_SUFFIX)

    @property
    def signature(self) -> PurePosixPath:
        """The path of the minisign signature, next to the lockfile."""
        return self.file.with_name(f"{self.file.name}.minisig")

    @property
    def path(self) -> Path:
        """The path of the stored lockfile."""
        return self.root / self.file


class CatalogueError(EnvforgeError):
    """A catalogue is unreadable or invalid."""


def unreadable(path: Path, error: OSError) -> CatalogueError:
    """Return the error for a file of a catalogue that the operating system can't read."""
    return CatalogueError(
        f"cannot read `{path}` of the lockfile catalogue: {error.strerror or error}",
        hint=_hints(path),
        code="catalogue-unreadable",
    )


def _hints(path: Path) -> tuple[Hint, ...]:
    """Return how to restore the catalogue of a file; the built-in one is part of the envforge installation."""
    from envforge.distribution import reinstall_command  # noqa: PLC0415 - only errors need it

    if path.absolute().is_relative_to(lockfiles_root().absolute()):
        return (Hint("to restore the built-in catalogue", reinstall_command()),)
    return (Hint("restore the catalogue from version control or from where it was copied"),)


def fault(where: Path, path: str, wanted: str, found: object) -> EnvforgeError:
    """Return the error for an invalid value in a file of a catalogue; ``path`` is the place inside the file."""
    return replace(document_at(where), show=show_plainly).fault(path, wanted, str(found))


def document_at(where: Path) -> Document:
    """Return how errors describe a file of a catalogue."""
    return Document(
        damaged=f"the lockfile catalogue is invalid: `{where}`",
        error=CatalogueError,
        code="catalogue-damaged",
        hints=partial(_hints, where),
        show=show_as_json,
    )
