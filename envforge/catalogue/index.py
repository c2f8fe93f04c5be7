"""Find the configured catalogue, and read its index and its lockfiles, which are identified by the hash of their input.

[catalogue]
address = "git+https://host.example/team/locks.git@main"
public-key = "RW…"      # minisign; if set, every lockfile must be signed with it
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.data_files import lockfiles_root, read_settings, read_settings_table, settings_error, user_file
from envforge.base.documents import Document, Natural, Printable, Sha256, matching
from envforge.base.files import regular
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.lockfile import LockedPackage, Requirements, parse_lockfile, update_sha256

if TYPE_CHECKING:
    from envforge.catalogue.address import Address
    from envforge.lock.python_index import Located, PythonIndex, SimplePages

INDEX_FILE = "index.json"
LOCK_SUFFIX = ".conda-lock.yml"
PLACEHOLDER = "https://python-index.invalid/packages/"
"""Replaces the root URL of the package index's files in a stored lockfile. ``.invalid`` never resolves (RFC 2606)."""


class LockedBuild(Struct, frozen=True, kw_only=True):
    """The PyTorch build in a stored lockfile."""

    torch: Version
    torchvision: Version | None = None
    tag: WheelTag
    python: Version
    index_url: Printable


class Publication(Struct, frozen=True, kw_only=True):
    """Who added an entry to a team's catalogue, and when (UTC). Both are stated by the publisher, not verified."""

    by: Printable
    at: Annotated[dt.datetime, msgspec.Meta(tz=True)]


class CatalogueEntry(Struct, frozen=True, kw_only=True):
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
    selection: LockedBuild
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


CatalogueId: TypeAlias = Annotated[str, matching("[0-9a-f]{32}", "the ID of a catalogue, 32 hexadecimal digits")]


class Index(Struct, frozen=True, kw_only=True):
    """The index of a catalogue.

    ``serial`` counts the signed publications, so that an older index is recognized. ``id`` was chosen by the first one,
    so that the index of another catalogue with the same key is recognized.
    """

    schema_version: Literal[1]
    entries: tuple[CatalogueEntry, ...]
    serial: Natural = 0
    id: CatalogueId | None = None


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


def find_entry(root: Path, input_sha256: str) -> CatalogueEntry | None:
    """Return the newest entry solved from exactly this input; raise ``CatalogueError`` for an invalid index."""
    found = [entry for entry in list_entries(root) if entry.input_sha256 == input_sha256]
    return max(found, key=_when, default=None)


def _when(entry: CatalogueEntry) -> tuple[dt.datetime, dt.date]:
    # a catalogue without publications has one entry per input, so `min` only has to compare with aware times
    published = entry.published.at if entry.published else dt.datetime.min.replace(tzinfo=dt.timezone.utc)
    return published, entry.date


def list_entries(root: Path) -> tuple[CatalogueEntry, ...]:
    """Return all entries of a catalogue in the order of its index; raise ``CatalogueError`` for an invalid index."""
    return read_index(root).entries


def read_index(root: Path) -> Index:
    """Return the index of a catalogue; raise ``CatalogueError`` if it is missing or invalid."""
    return index_of(read_document(root), root)


def index_of(document: Mapping[str, Any], root: Path) -> Index:
    """Return the index in a document that was read from ``root``."""
    return _placed(_document(root / INDEX_FILE).convert(dict(document), Index), root)


def read_document(root: Path) -> dict[str, Any]:
    """Return the index as it is, with the fields that this version doesn't know, to extend it or to verify it."""
    return _document(root / INDEX_FILE).read_json(_content(root), dict[str, Any])


def _content(root: Path) -> bytes:
    where = root / INDEX_FILE
    try:
        return regular(where).read_bytes()
    except OSError as error:
        raise unreadable(where, error) from error


def read_row(row: Mapping[str, Any], root: Path) -> CatalogueEntry:
    """Read a row that is about to be added to the index, as strictly as an existing one."""
    entry = _document(root / INDEX_FILE).convert(dict(row), CatalogueEntry, "entries[new]")
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
        is_inside = entry.file.name and not entry.file.is_absolute() and ".." not in entry.file.parts
        if not is_inside or not text.isprintable() or {"\\", ":"} & set(text):
            raise fault(where, f"entries[{number}].file", "a path inside the catalogue", text)
        if entry.published is None and entry.input_sha256 in inputs:
            wanted = f"a hash that differs from the one of entries[{inputs[entry.input_sha256]}]"
            raise fault(where, f"entries[{number}].input_sha256", wanted, entry.input_sha256)
        if entry.file in files:
            wanted = f"a file that differs from the one of entries[{files[entry.file]}]"
            raise fault(where, f"entries[{number}].file", wanted, entry.file)
        files[entry.file] = inputs[entry.input_sha256] = number
    return replace(index, entries=tuple(replace(entry, root=root) for entry in index.entries))


def filled(text: str, where: str, say: Callable[[str], None]) -> str:
    """Return ``text`` with the URLs of the configured package index; without placeholders, return it unchanged."""
    if PLACEHOLDER not in text:
        return text
    from envforge.lock.python_index import configured_index  # noqa: PLC0415 - many lockfiles have no wheel from it

    return fill(text, where, configured_index(os.environ, Path.home(), Path(sys.prefix)), say)


def fill(text: str, where: str, python_index: PythonIndex, say: Callable[[str], None] | None = None) -> str:
    """Replace each placeholder URL in a lockfile with the URL of that file on ``python_index``."""
    from envforge.lock.python_index import SimplePages  # noqa: PLC0415 - as above

    lock = parse_lockfile(text, where)
    packages = {p.url: p for p in lock.packages if p.url.startswith(PLACEHOLDER)}.values()
    pages = SimplePages()
    hows: dict[str, int] = {}
    for package in packages:
        located = _locate(package, where, python_index, pages)
        # replaced in the text, not in parsed YAML, so that all other bytes of the lockfile are preserved
        text = text.replace(package.url, located.url)
        hows[located.how] = hows.get(located.how, 0) + 1
    if say is not None:
        for how, count in hows.items():
            files = "1 file" if count == 1 else f"{count} files"
            index = f"{python_index.public_url} ({python_index.source})"
            say(f"{files} from the package index {index}; URLs from {how}")
    return update_sha256(text) if lock.is_as_written else text


def verified_text(entry: CatalogueEntry) -> str:
    """Return the text of a stored lockfile; raise ``CatalogueError`` if its SHA-256 differs from the index."""
    where = entry.root / INDEX_FILE
    # the index is checked for `..`, but a symlink can still lead outside
    if not entry.path.resolve().is_relative_to(entry.root.resolve()):
        raise fault(entry.path, "", "a file inside the catalogue", f"a symlink to {entry.path.resolve()}")
    try:
        raw = regular(entry.path).read_bytes()
    except OSError as error:
        raise unreadable(entry.path, error) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != entry.sha256:
        raise fault(entry.path, "", f"SHA-256 {entry.sha256} from {where}", f"SHA-256 {found}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fault(entry.path, "", "UTF-8", str(error)) from error


def _locate(package: LockedPackage, where: str, python_index: PythonIndex, pages: SimplePages) -> Located:
    from envforge.lock.python_index import locate  # noqa: PLC0415 - as above

    if package.sha256 is None:
        raise fault(Path(where), f"package `{package.name}`", "a sha256", "none")
    return locate(package.url.removeprefix(PLACEHOLDER), package.sha256, python_index, pages)


CATALOGUE_VARIABLE = "ENVFORGE_CATALOGUE"
PROJECT_FILE = "envforge.toml"


class ChosenCatalogue(Struct, frozen=True, kw_only=True):
    """The URL of a catalogue, where it was configured, and the minisign key that must have signed its lockfiles."""

    address: Address
    source: str
    public_key: str | None = None


def chosen_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> ChosenCatalogue | None:
    """Return the first configured catalogue with the key of its place, or None.

    Raises ``RequestError`` if two files configure different keys for one place.
    """
    configured = tuple(_configured(folder))
    if not (configured or option or environment.get(CATALOGUE_VARIABLE)):
        return None
    from envforge.catalogue.address import parse_address  # noqa: PLC0415 - only teams have a catalogue

    stated = ((option, "--catalogue"), (environment.get(CATALOGUE_VARIABLE), CATALOGUE_VARIABLE))
    typed = next(((parse_address(text, folder), source) for text, source in stated if text), None)
    address, source = typed or (configured[0].address, configured[0].source)
    keys = {each.public_key: each.source for each in configured if each.address.place == address.place}
    keys.pop(None, None)  # a file without a key doesn't disable the key of another
    if len(keys) > 1:
        raise RequestError(
            f"{' and '.join(f'`{where}`' for where in keys.values())} have different keys for the catalogue "
            f"`{address.public}`",
            hint="remove one `public-key` below `[catalogue]`",
            code="two-keys",
        )
    return ChosenCatalogue(address=address, source=source, public_key=next(iter(keys), None))


def need_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> ChosenCatalogue:
    """Return the configured catalogue; raise ``RequestError`` if there is none."""
    found = chosen_catalogue(option, folder, environment)
    if found is None:
        raise RequestError(
            f"no catalogue is configured: `--catalogue` and `{CATALOGUE_VARIABLE}` are not set, and `[catalogue] "
            f"address` is not in `{folder / PROJECT_FILE}` or `{user_file()}`",
            hint=(
                Hint("to select a catalogue for this command, pass `--catalogue URL`"),
                Hint('to configure one for every command, add `address = "URL"` below `[catalogue]` to either file'),
            ),
            code="no-catalogue",
        )
    return found


def project_template(folder: Path) -> str | None:
    """Return the template of a project; None if envforge.toml contains only settings."""
    table = read_settings(folder / PROJECT_FILE).get("template")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def _configured(folder: Path) -> Iterator[ChosenCatalogue]:
    for path in (folder / PROJECT_FILE, user_file()):
        table = read_settings_table(path, "catalogue", ("address", "public-key"))
        if "address" in table:
            from envforge.catalogue.address import parse_address  # noqa: PLC0415 - as above

            address = parse_address(table["address"], path.parent)
            yield ChosenCatalogue(address=address, source=str(path), public_key=table.get("public-key"))
        elif table:
            raise settings_error(path, "catalogue", "`address` next to `public-key`", "only `public-key`")
