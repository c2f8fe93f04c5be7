"""Open a catalogue of any kind as a directory that ``envforge.catalogue`` reads, for one command."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from envforge.catalogue import INDEX_FILE, Entry, entries, verified_text
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.nearest import nearest
from envforge.sharing.address import Address
from envforge.sharing.folder import Addition, FolderCatalogue


class NoCatalogueError(EnvforgeError):
    """The URL is reachable, but has no catalogue."""


class Catalogue(Protocol):
    """A catalogue of any kind."""

    @property
    def address(self) -> Address:
        """URL of the catalogue."""

    @property
    def root(self) -> Path:
        """Local directory of the catalogue or its copy."""

    def bring(self, name: str) -> None:
        """Make a file available below ``root``."""

    def publish(self, addition: Addition) -> bool:
        """Add an entry; returns False if the same entry already exists."""


@contextmanager
def opened(address: Address, public_key: str | None = None) -> Iterator[Catalogue]:
    """Open a catalogue to read it, and verify the signature of its index if a key is given."""
    with opened_to_publish(address) as catalogue:
        catalogue.bring(INDEX_FILE)
        _need_index(catalogue)
        if public_key is not None:
            from envforge.sharing.signed_index import verify_index  # noqa: PLC0415 - only with a key

            verify_index(catalogue.root, public_key)
        yield catalogue


@contextmanager
def opened_to_publish(address: Address) -> Iterator[Catalogue]:
    """Open a catalogue that may still be empty."""
    with tempfile.TemporaryDirectory(prefix="envforge-catalogue-") as folder:
        yield _open(address, Path(folder) / "catalogue")


def _need_index(catalogue: Catalogue) -> None:
    if not (catalogue.root / INDEX_FILE).is_file():
        raise NoCatalogueError(
            f"no catalogue found at `{catalogue.address.public}`: it has no `{INDEX_FILE}`",
            hint="check the address; to create a catalogue there",
            command=f"envforge lockfiles publish --catalogue {shlex.quote(catalogue.address.public)}",
            code="no-catalogue-there",
        )


def _open(address: Address, copy: Path) -> Catalogue:
    if address.kind == "folder":
        return FolderCatalogue(address=address, root=Path(address.location))
    if address.kind == "git":
        from envforge.sharing.git import clone  # noqa: PLC0415 - imports only the kind in use

        return clone(address, copy)
    copy.mkdir()
    if address.kind == "web":
        from envforge.sharing.web import WebCatalogue  # noqa: PLC0415 - imports an HTTP client

        return WebCatalogue(address=address, root=copy)
    from envforge.sharing.objects import open_objects  # noqa: PLC0415 - as above

    return open_objects(address, copy)


def entry_named(catalogue: Catalogue, name: str) -> Entry:
    """Return the entry of that name; raise ``RequestError`` with a similar name if there is none."""
    known = {entry.name: entry for entry in entries(catalogue.root)}
    if name in known:
        return known[name]
    near = nearest(name, known, alike=0.6)
    guess = (Hint(f"did you mean `{near}`?"),) if near else ()
    catalogue_words = shlex.join(["envforge", "lockfiles", "list", "--catalogue", catalogue.address.public])
    raise RequestError(
        f"unknown lockfile `{name}` in `{catalogue.address.public}`",
        hint=(*guess, Hint("to list the lockfiles", catalogue_words)),
        code="no-such-entry",
    )


def lock_text(catalogue: Catalogue, entry: Entry, public_key: str | None = None) -> str:
    """Return the text of a stored lockfile, verified against the index, and its signature if a key is given."""
    catalogue.bring(str(entry.file))
    text = verified_text(entry)
    if public_key is not None:
        from envforge.sharing.signing import verify_signature  # noqa: PLC0415 - cryptography, only with a key

        if entry.signed_by is not None:
            catalogue.bring(str(entry.signature))
        verify_signature(entry, text.encode(), public_key)
    return text
