"""Open a catalogue as a directory, and publish into one.

``add`` is the only function that changes an index. git and object stores call it on a local copy.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

from envforge.base.files import file_lock, write_atomic
from envforge.base.suggest import nearest
from envforge.catalogue.address import Address
from envforge.catalogue.index import INDEX_FILE, CatalogueEntry, list_entries, read_document, read_row, verified_text
from envforge.catalogue.signing import Signer, check_extensible, check_index, index_bytes, signed
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError

if TYPE_CHECKING:
    from envforge.catalogue.git import GitCatalogue
    from envforge.catalogue.objects import ObjectCatalogue, WebCatalogue

Catalogue: TypeAlias = "FolderCatalogue | GitCatalogue | ObjectCatalogue | WebCatalogue"
"""A catalogue at ``address``, whose files ``bring`` makes available below ``root``, and ``publish`` extends."""
_LOCK = ".index.lock"


class Addition(Struct, frozen=True, kw_only=True):
    """A lockfile to publish: its row of the index, its files, the signer of the index, and the catalogue's key."""

    row: Mapping[str, Any]
    files: Mapping[str, bytes]
    signer: Signer | None = None
    public_key: str | None = None


class FolderCatalogue(Struct, frozen=True, kw_only=True):
    """A catalogue that is read without a copy."""

    address: Address
    root: Path

    def bring(self, name: str) -> None:
        """Do nothing: every file is already here."""

    def publish(self, addition: Addition) -> bool:
        """Add an entry while holding a lock; returns False if the same entry already exists."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with file_lock(self.root / _LOCK):
                return add(self.address, self.root, addition)
        except OSError as error:
            raise OutsideError(
                f"failed to publish to `{self.root}`: {error.strerror or error}", code="publish-failed"
            ) from error


def add(address: Address, root: Path, addition: Addition) -> bool:
    """Write the files of an entry, then the index that lists it; returns False if the same entry already exists.

    Raises ``EnvforgeError`` if the name belongs to another lockfile, or if a reader would reject the index. A file that
    the index doesn't list was left by an interrupted publication, and is overwritten.
    """
    index = root / INDEX_FILE
    state = check_extensible(address, root, addition.signer, addition.public_key)
    present = list_entries(root) if index.exists() else ()
    entry = read_row(addition.row, root)
    same = next((each for each in present if each.file == entry.file), None)
    if same is not None:
        if same.sha256 == entry.sha256 and (entry.signed_by is None or same.signed_by == entry.signed_by):
            return False
        raise _taken(same, entry)
    document: dict[str, Any] = read_document(root) if index.exists() else {"schema_version": 1, "entries": []}
    document["entries"] = [*document["entries"], dict(addition.row)]
    # signed before anything is written, because a wrong password must leave the catalogue as it was
    if addition.signer is not None:
        document = signed(document, state, addition.signer)
    for name, data in addition.files.items():
        path = root / name
        if not path.parent.resolve().is_relative_to(root.resolve()):
            raise EnvforgeError(
                f"`{path.parent}` is a link to a path outside the catalogue `{root}`", code="catalogue-damaged"
            )
        write_atomic(path, data, through_links=False)
    # last, so that readers never find an entry without its file
    write_atomic(index, index_bytes(document), through_links=False)
    return True


def _taken(same: CatalogueEntry, entry: CatalogueEntry) -> EnvforgeError:
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


class NoCatalogueError(EnvforgeError):
    """The URL is reachable, but has no catalogue."""


@contextmanager
def open_catalogue(address: Address, public_key: str | None = None) -> Iterator[Catalogue]:
    """Open a catalogue to read it, and verify the signature of its index if a key is given."""
    with opened_to_publish(address) as catalogue:
        catalogue.bring(INDEX_FILE)
        _need_index(catalogue)
        if public_key is not None:
            check_index(address, catalogue.root, public_key)
        yield catalogue


def publish(address: Address, addition: Addition) -> bool:
    """Add an entry to a catalogue, and remember its index; returns False if the same entry already exists."""
    with opened_to_publish(address) as catalogue:
        is_added = catalogue.publish(addition)
        if is_added and addition.signer is not None:
            check_index(address, catalogue.root, addition.signer.public_key())
        return is_added


@contextmanager
def opened_to_publish(address: Address) -> Iterator[Catalogue]:
    """Open a catalogue that may still be empty."""
    with (
        tempfile.TemporaryDirectory(prefix="envforge-catalogue-") as folder,
        _named(Path(folder) / "catalogue", address),
    ):
        yield _open(address, Path(folder) / "catalogue")


@contextmanager
def _named(root: Path, address: Address) -> Iterator[None]:
    """Let errors show the URL of a catalogue in place of the path of a temporary copy."""
    try:
        yield
    except EnvforgeError as error:
        error.message = error.message.replace(str(root), address.public)
        raise


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
        from envforge.catalogue.git import clone  # noqa: PLC0415 - imports only the kind in use

        return clone(address, copy)
    copy.mkdir()
    if address.kind == "web":
        from envforge.catalogue.objects import WebCatalogue  # noqa: PLC0415 - imports an HTTP client

        return WebCatalogue(address=address, root=copy)
    from envforge.catalogue.objects import open_objects  # noqa: PLC0415 - as above

    return open_objects(address, copy)


def entry_named(catalogue: Catalogue, name: str) -> CatalogueEntry:
    """Return the entry of that name; raise ``RequestError`` with a similar name if there is none."""
    known = {entry.name: entry for entry in list_entries(catalogue.root)}
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


def lock_text(catalogue: Catalogue, entry: CatalogueEntry, public_key: str | None = None) -> str:
    """Return the text of a stored lockfile, verified against the index, and its signature if a key is given."""
    catalogue.bring(str(entry.file))
    with _named(catalogue.root, catalogue.address):
        text = verified_text(entry)
    if public_key is not None:
        from envforge.catalogue.signing import verify_signature  # noqa: PLC0415 - cryptography, only with a key

        if entry.signed_by is not None:
            catalogue.bring(str(entry.signature))
        verify_signature(entry, text.encode(), public_key)
    return text
