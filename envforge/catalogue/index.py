"""Read and write the index of a catalogue."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.version import Version

from envforge.base.data_files import lockfiles_root
from envforge.base.records import (
    Document,
    Fields,
    WrongValue,
    parsed,
    read_capabilities,
    read_digest,
    read_natural,
    read_tag,
    read_text,
    read_version,
    show_as_json,
    show_plainly,
)
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint
from envforge.lock.needs import Requirements

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
    from envforge.base.distribution import reinstall_command  # noqa: PLC0415 - only errors need it

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
    where = root / INDEX_FILE
    try:
        text = where.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(where, error) from error
    except UnicodeDecodeError as error:
        raise fault(where, "", "UTF-8", error) from error
    top = document_at(where).read_json(text)
    if top.raw("schema_version") != SCHEMA_VERSION:
        raise top.fault("schema_version", str(SCHEMA_VERSION), top.raw("schema_version"))
    found = tuple(_entry(row, root) for row in top.items("entries"))
    _refuse_twins(where, found)
    return found


def read_row(row: Mapping[str, Any], root: Path) -> Entry:
    """Read a row that is about to be added to the index, as strictly as an existing one."""
    return _entry(Fields(document_at(root / INDEX_FILE), "entries[new]", dict(row)), root)


def _refuse_twins(where: Path, found: tuple[Entry, ...]) -> None:
    """Raise ``CatalogueError`` for a file or an input that is listed twice; publications may share an input."""
    files: dict[PurePosixPath, int] = {}
    inputs: dict[str, int] = {}
    for number, entry in enumerate(found):
        if entry.published is None and entry.input_sha256 in inputs:
            wanted = f"a hash that differs from the one of entries[{inputs[entry.input_sha256]}]"
            raise fault(where, f"entries[{number}].input_sha256", wanted, entry.input_sha256)
        if entry.file in files:
            wanted = f"a file that differs from the one of entries[{files[entry.file]}]"
            raise fault(where, f"entries[{number}].file", wanted, entry.file)
        files[entry.file] = inputs[entry.input_sha256] = number


def _entry(row: Fields, root: Path) -> Entry:
    published = row.optional("published")
    return Entry(
        root=root,
        template=row.need("template", _read_plain),
        variant=row.need("variant", _read_plain),
        platforms=row.list_of("platforms", _read_plain),
        file=row.need("file", _read_file),
        sha256=row.need("sha256", read_digest),
        input_sha256=row.need("input_sha256", read_digest),
        date=row.need("date", _read_date),
        selection=_selection(row.inner("selection")),
        requirements=_requirements(row.inner("requirements")),
        size_bytes=row.get("size_bytes", read_natural),
        published=None if published is None else _publication(published),
        signed_by=row.get("signed_by", _read_key),
    )


def _publication(row: Fields) -> Publication:
    return Publication(by=row.need("by", _read_plain), at=row.need("at", _read_time))


def _selection(row: Fields) -> Selected:
    return Selected(
        torch=row.need("torch", read_version),
        torchvision=row.get("torchvision", read_version),
        tag=row.need("tag", read_tag),
        python=row.need("python", read_version),
        index_url=row.need("index_url", _read_plain),
    )


def _requirements(row: Fields) -> Requirements:
    return Requirements(
        driver_direct=row.get("driver_direct", read_version),
        driver_minor_compatible=row.get("driver_minor_compatible", read_version),
        compute_capabilities=row.need("compute_capabilities", read_capabilities),
        ptx=row.need("ptx", read_capabilities),
        glibc=row.get("glibc", read_version),
        macos=row.get("macos", read_version),
        download_bytes=row.need("download_bytes", read_natural),
        files=row.need("files", read_natural),
        files_sized=row.need("files_sized", read_natural),
        words=row.need("words", _read_plain),
    )


def _read_plain(value: object) -> str:
    text = read_text(value)
    # an index can come from anyone, and these strings are printed to the terminal
    if not text.isprintable():
        raise WrongValue("a string without control characters")
    return text


def _read_file(value: object) -> PurePosixPath:
    text = _read_plain(value)
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts or "\\" in text or ":" in text:
        raise WrongValue("a path inside the catalogue")
    return name


def _read_key(value: object) -> str:
    text = read_text(value)
    if re.fullmatch(r"[0-9A-F]{16}", text) is None:
        raise WrongValue("the id of a minisign key, 16 hexadecimal digits")
    return text


def _time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, TIME_FORMAT).replace(tzinfo=dt.timezone.utc)


_read_date = parsed(dt.date.fromisoformat, "a date such as 2026-08-11")
_read_time = parsed(_time, "a time such as 2026-08-11T09:30:00Z")
