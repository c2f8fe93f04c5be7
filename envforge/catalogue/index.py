"""Read and write the index of a catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from packaging.version import Version

from envforge.base.data_files import lockfiles_root
from envforge.base.documents import Document, Natural, Printable, Sha256, matching
from envforge.base.files import regular
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint
from envforge.lock.needs import Requirements

INDEX_FILE = "index.json"
LOCK_SUFFIX = ".conda-lock.yml"
PLACEHOLDER = "https://python-index.invalid/packages/"
"""Replaces the root URL of the package index's files in a stored lockfile. ``.invalid`` never resolves (RFC 2606)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """The PyTorch build in a stored lockfile."""

    torch: Version
    torchvision: Version | None = None
    tag: WheelTag
    python: Version
    index_url: Printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Who added an entry to a team's catalogue, and when (UTC). Both are stated by the publisher, not verified."""

    by: Printable
    at: Annotated[dt.datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One stored lockfile. ``date`` is the day (UTC) of its newest package record, or of its publication.

    ``published`` is set only in a team's catalogue. ``signed_by`` is the id of the minisign key of the signature next
    to the lockfile.
    """

    template: Printable
    variant: Printable
    platforms: tuple[Printable, ...]
    file: PurePosixPath
    sha256: Sha256
    input_sha256: Sha256
    date: dt.date
    selection: Selected
    requirements: Requirements
    size_bytes: Natural | None = None
    published: Publication | None = None
    signed_by: Annotated[str, matching("[0-9A-F]{16}", "the id of a minisign key, 16 hexadecimal digits")] | None = None
    root: Path = Path()

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The index of a catalogue. ``serial`` counts the signed publications, so that an older index is recognized."""

    schema_version: Literal[1]
    entries: tuple[Entry, ...]
    serial: Natural = 0


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
    from envforge.base.distribution import reinstall_command  # noqa: PLC0415 - only errors need it

    if path.absolute().is_relative_to(lockfiles_root().absolute()):
        return (Hint("to restore the built-in catalogue", reinstall_command()),)
    return (Hint("restore the catalogue from version control or from where it was copied"),)


def fault(where: Path, path: str, wanted: str, found: object) -> EnvforgeError:
    """Return the error for an invalid value in a file of a catalogue; ``path`` is the place inside the file."""
    return _document(where).fault(path, wanted, str(found))


def _document(where: Path) -> Document:
    return Document(
        damaged=f"the lockfile catalogue is invalid: `{where}`",
        error=CatalogueError,
        code="catalogue-damaged",
        hints=partial(_hints, where),
    )


TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def find_entry(root: Path, input_sha256: str) -> Entry | None:
    """Return the newest entry solved from exactly this input; raise ``CatalogueError`` for an invalid index."""
    found = [entry for entry in list_entries(root) if entry.input_sha256 == input_sha256]
    return max(found, key=_when, default=None)


def _when(entry: Entry) -> tuple[dt.datetime, dt.date]:
    # a catalogue without publications has one entry per input, so `min` only has to compare with aware times
    published = entry.published.at if entry.published else dt.datetime.min.replace(tzinfo=dt.timezone.utc)
    return published, entry.date


def list_entries(root: Path) -> tuple[Entry, ...]:
    """Return all entries of a catalogue in the order of its index; raise ``CatalogueError`` for an invalid index."""
    return read_index(root).entries


def read_index(root: Path) -> Index:
    """Return the index of a catalogue; raise ``CatalogueError`` if it is missing or invalid."""
    return _placed(_document(root / INDEX_FILE).read_json(_content(root), Index), root)


def read_document(root: Path) -> dict[str, Any]:
    """Return the index as it is, with the fields that this version doesn't know, to extend it or to verify it."""
    return _document(root / INDEX_FILE).read_json(_content(root), dict[str, Any])


def _content(root: Path) -> bytes:
    where = root / INDEX_FILE
    try:
        return regular(where).read_bytes()
    except OSError as error:
        raise unreadable(where, error) from error


def read_row(row: Mapping[str, Any], root: Path) -> Entry:
    """Read a row that is about to be added to the index, as strictly as an existing one."""
    entry = _document(root / INDEX_FILE).convert(dict(row), Entry, "entries[new]")
    return _placed(Index(schema_version=1, entries=(entry,)), root).entries[0]


def _placed(index: Index, root: Path) -> Index:
    """Return the index with the directory of its entries.

    Raises ``CatalogueError`` for a path that leads outside, and for a file or an input that is listed twice;
    publications may share an input.
    """
    where = root / INDEX_FILE
    files: dict[PurePosixPath, int] = {}
    inputs: dict[str, int] = {}
    for number, entry in enumerate(index.entries):
        text = str(entry.file)
        if entry.file.is_absolute() or ".." in entry.file.parts or not text.isprintable() or {"\\", ":"} & set(text):
            raise fault(where, f"entries[{number}].file", "a path inside the catalogue", text)
        if entry.published is None and entry.input_sha256 in inputs:
            wanted = f"a hash that differs from the one of entries[{inputs[entry.input_sha256]}]"
            raise fault(where, f"entries[{number}].input_sha256", wanted, entry.input_sha256)
        if entry.file in files:
            wanted = f"a file that differs from the one of entries[{files[entry.file]}]"
            raise fault(where, f"entries[{number}].file", wanted, entry.file)
        files[entry.file] = inputs[entry.input_sha256] = number
    return replace(index, entries=tuple(replace(entry, root=root) for entry in index.entries))
