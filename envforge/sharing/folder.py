"""Read and write a catalogue in a directory, one file at a time, the index last.

``add`` is the only function that changes an index. git and object stores call it on a local copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from envforge.catalogue import INDEX_FILE, Entry, entries
from envforge.catalogue.index import read_row
from envforge.errors import EnvforgeError, OutsideError
from envforge.install.journal import write_whole
from envforge.sharing.address import Address
from envforge.sharing.signed_index import index_bytes, signed
from envforge.sharing.signing import Signer

_LOCK = ".index.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """A lockfile to publish: its row of the index, its files, and the signer of the index."""

    row: Mapping[str, Any]
    files: Mapping[str, bytes]
    signer: Signer | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderCatalogue:
    """A catalogue that is read without a copy."""

    address: Address
    root: Path

    def bring(self, name: str) -> None:
        """Do nothing: every file is already here."""

    def publish(self, addition: Addition) -> bool:
        """Add an entry while holding a lock; returns False if the same entry already exists."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / _LOCK):
                return add(self.root, addition)
        except OSError as error:
            raise OutsideError(
                f"failed to publish to `{self.root}`: {error.strerror or error}", code="publish-failed"
            ) from error


def add(root: Path, addition: Addition) -> bool:
    """Write the files of an entry, then the index that lists it; returns False if the same entry already exists.

    Raises ``EnvforgeError`` if the name belongs to another lockfile. A file that the index doesn't list was left by an
    interrupted publication, and is overwritten.
    """
    index = root / INDEX_FILE
    present = entries(root) if index.exists() else ()
    entry = read_row(addition.row, root)
    same = next((each for each in present if each.file == entry.file), None)
    if same is not None:
        if same.sha256 == entry.sha256 and (entry.signed_by is None or same.signed_by == entry.signed_by):
            return False
        raise _taken(same, entry)
    document: dict[str, Any] = {"schema_version": 1, "entries": []}
    if index.exists():
        document = json.loads(index.read_text(encoding="utf-8"))
    document = signed(root, addition.row, document, addition.signer)
    for name, data in addition.files.items():
        path = root / name
        if not path.parent.resolve().is_relative_to(root.resolve()):
            raise EnvforgeError(
                f"`{path.parent}` is a link to a path outside the catalogue `{root}`", code="catalogue-damaged"
            )
        write_whole(path, data)
    write_whole(index, index_bytes(document))
    return True


def sha256(data: bytes) -> str:
    """Return the SHA-256 in lowercase hex."""
    return hashlib.sha256(data).hexdigest()


def _taken(same: Entry, entry: Entry) -> EnvforgeError:
    by = f", published by {same.published.by} at {same.published.at:%Y-%m-%d %H:%M} UTC" if same.published else ""
    differs = (
        f"sha256 `{same.sha256}`{by}, not `{entry.sha256}`"
        if same.sha256 != entry.sha256
        else f"the same lockfile{by}, with another signature (`{same.signed_by or 'none'}`, not `{entry.signed_by}`)"
    )
    return EnvforgeError(
        f"the catalogue already has an entry `{entry.name}`: {differs}",
        hint=f"envforge never overwrites an entry; to use another name, pass `--name {entry.name}-{entry.date}`",
        code="entry-exists",
    )
