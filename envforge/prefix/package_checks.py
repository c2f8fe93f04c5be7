"""Reject a package that would write outside a prefix, or that can't be linked, before the prefix changes.

What the libraries unpacked is checked, and the list of files as rattler parses it, because that is what it will link.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import rattler

from envforge.base.documents import Document
from envforge.errors import EnvforgeError, Hint, printable
from envforge.lock.plan import Artifact
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.cache import Tree

RESERVED = {"conda-meta", ENVFORGE_DIRECTORY, "__clobbers__"}  # the last one is of rattler
INFO = "info"
_LARGEST_METADATA = 1 << 25  # bytes; a list of 100,000 files has 20 MB
_MOST_ROWS = 500_000
_ODD_SPELLING = re.compile(rb'\\[u/]|/\.?[/"]|"\./')  # in a list, which is parsed again only if it has one
SHORTEST_PLACEHOLDER = 32  # characters, in a binary file; conda-build used this length before it used 255
_MOST_PLACEHOLDERS = 100_000  # in a text file, each of which grows by up to 1,000 characters
_LONGEST_PROGRAM = 200  # bytes; file systems allow 255, and Windows needs an ending
_IDENTIFIERS = r"\s*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\s*"
_ENTRY_POINT = re.compile(rf"[^=]+={_IDENTIFIERS}:{_IDENTIFIERS}", re.ASCII)


def check_unpacked(artifact: Artifact, folder: Path, tree: Tree, platform: str) -> None:
    """Raise ``EnvforgeError`` if a file that rattler will link, or an unpacked file of a conda package, is not safe."""
    for name in tree.strange:
        raise refused(artifact, name, "is a device, a pipe, or a program that changes its user")
    top = folder.resolve()
    for name, target in tree.links.items():
        arrived = Path(os.path.realpath(folder / name))
        if not arrived.is_relative_to(top) or not RESERVED.isdisjoint(arrived.relative_to(top).parts[:1]):
            raise refused(artifact, name, f"is a link to a path outside the package: `{printable(target)}`")
    _check_size(artifact, folder)
    seen: dict[str, str] = {}
    # rattler's own parse, which accepts the older `info/files`, too, and is what it will link
    for entry in rattler.PathsJson.from_package_directory_with_deprecated_fallback(folder).paths:
        name = entry.relative_path.as_posix()
        check_path(artifact, name)
        key = name if platform.startswith("linux-") else _folded(artifact, name, platform)
        if key.split("/", 1)[0] == INFO:
            raise refused(artifact, name, f"is listed, but in `{INFO}`, which is not installed")
        if seen.get(key) == name:
            raise archive_damaged(artifact, f"it lists `{printable(name)}` twice")
        if seen.setdefault(key, name) != name:
            raise refused(artifact, name, f"has the same name as `{seen[key]}` on a disk that ignores case")
        if name not in tree.files:
            raise archive_damaged(artifact, f"it lists `{printable(name)}`, but contains no such file")
        _check_listed(artifact, entry, folder / name)
    _check_spellings(artifact, folder / INFO, set(seen.values()))


def _check_size(artifact: Artifact, folder: Path) -> None:
    """Raise ``EnvforgeError`` if rattler would need gigabytes to parse the metadata of a package."""
    for name, marks in {"index.json": b"{[", "paths.json": b"{[", "link.json": b"{[", "files": b"\n"}.items():
        path = folder / INFO / name
        if not path.is_file():
            continue
        size = path.stat().st_size
        if size > _LARGEST_METADATA:
            raise archive_damaged(artifact, f"its `{INFO}/{name}` is too large: {size} bytes")
        data = path.read_bytes()
        if sum(data.count(mark) for mark in marks) > _MOST_ROWS:
            raise archive_damaged(artifact, f"its `{INFO}/{name}` has more than {_MOST_ROWS:,} rows")


def _check_spellings(artifact: Artifact, info: Path, listed: Collection[str]) -> None:
    """Raise ``EnvforgeError`` if a listed path is written as `a/`, which rattler can't link, but returns as `a`."""
    path = info / "paths.json"
    if not path.is_file():
        path = info / "files"
    data = path.read_bytes()
    waiting: list[Any] = []
    if path.suffix != ".json":
        waiting = data.decode().splitlines()
    elif _ODD_SPELLING.search(data):
        waiting = [_info_file(artifact, path.name).read_json(data, dict[str, Any])]
    while waiting:
        match waiting.pop():
            case str() as text if text != (name := PurePath(text).as_posix()) and name in listed:
                raise archive_damaged(artifact, f"it lists `{printable(name)}` as `{printable(text)}`")
            case dict() as values:
                waiting += values.values()
            case list() as values:
                waiting += values


def _info_file(artifact: Artifact, name: str) -> Document:
    return Document(
        damaged=f"the file `{INFO}/{name}` of `{artifact.file_name}` is invalid",
        error=EnvforgeError,
        code="archive-damaged",
        hints=lambda: (_EXCLUDE,),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Noarch:
    type: Literal["python"]
    entry_points: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _LinkFile:
    noarch: _Noarch
    package_metadata_version: Literal[1]


def read_programs(artifact: Artifact, folder: Path) -> tuple[str, ...]:
    """Return the names of the programs that rattler will write for the entry points of a package, which are checked."""
    path = folder / INFO / "link.json"
    if not path.exists():
        return ()
    document = _info_file(artifact, path.name)
    # decoded here, because rattler accepts only UTF-8
    points = document.read_json(document.read_bytes(path).decode(), _LinkFile).noarch.entry_points
    for point in points:
        if not _ENTRY_POINT.fullmatch(point):
            raise archive_damaged(artifact, f"`{printable(point)}` is not an entry point `NAME = MODULE:FUNCTION`")
        check_program(artifact, point.partition("=")[0].strip())
    return tuple(point.partition("=")[0].strip() for point in points)


def check_program(artifact: Artifact, name: str) -> None:
    """Raise ``EnvforgeError`` unless the name of a program is one of a file in the directory of programs."""
    if name in {"", ".", ".."} or not name.isprintable() or {"/", "\\"} & set(name):
        raise refused(artifact, name, "is a program outside the directory of programs")
    if len(name.encode()) > _LONGEST_PROGRAM:
        raise refused(artifact, name, "is a program whose name is too long")
    if re.fullmatch(r"pythonw?[0-9.]*t?(\.exe)?", name, re.IGNORECASE):
        raise refused(artifact, name, "is a program that would replace Python")


def _check_listed(artifact: Artifact, entry: rattler.PathsEntry, path: Path) -> None:
    """Raise ``EnvforgeError`` if rattler can't link a listed file: it would stop with a half-linked prefix."""
    kind = entry.path_type
    if kind.directory or bool(kind.softlink) != path.is_symlink() or not (kind.softlink or path.is_file()):
        listed = printable(entry.relative_path.as_posix())
        raise archive_damaged(artifact, f"it lists `{listed}` as another kind of file than it is")
    if entry.prefix_placeholder is not None:
        if not path.is_file():
            raise archive_damaged(artifact, f"`{printable(entry.relative_path.as_posix())}` has no text to replace")
        _check_placeholder(artifact, entry.prefix_placeholder, path)


def _check_placeholder(artifact: Artifact, placeholder: rattler.PrefixPlaceholder, path: Path) -> None:
    """Raise ``EnvforgeError`` if a placeholder is none that a build tool writes, or would make a file enormous."""
    text, is_binary = placeholder.placeholder, placeholder.file_mode.mode == "binary"
    if not re.match(r"/|[A-Za-z]:[\\/]", text) or (is_binary and len(text) < SHORTEST_PLACEHOLDER):
        raise archive_damaged(artifact, f"`{printable(text)}` is not a placeholder of a prefix")
    most = path.stat().st_size // len(text)
    if not is_binary and most > _MOST_PLACEHOLDERS and path.read_bytes().count(text.encode()) > _MOST_PLACEHOLDERS:
        raise archive_damaged(artifact, f"`{printable(path.name)}` contains `{printable(text)}` too often")


def _folded(artifact: Artifact, name: str, platform: str) -> str:
    """Return a key that is equal for all spellings of a path on the disks of macOS and Windows."""
    if platform.startswith("win-") and any(":" in part or part.endswith((".", " ")) for part in name.split("/")):
        raise refused(artifact, name, "has a name that Windows changes")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check_path(artifact: Artifact, name: str, *, reserved: bool = True) -> None:
    """Raise ``EnvforgeError`` unless a path of a package is relative and inside.

    With ``reserved``, it may not be in the directories of conda's and envforge's own records either.
    """
    parts = re.split(r"[/\\]", name)
    if "\0" in name or name[1:2] == ":" or not {"", ".", ".."}.isdisjoint(parts):
        raise refused(artifact, name, "is a path outside the package")
    if reserved and parts[0].lower() in RESERVED:
        raise refused(artifact, name, f"is in `{parts[0]}`, whose files only the installer writes")


_EXCLUDE = Hint("once environment.yml excludes this build", "envforge lock")


def refused(artifact: Artifact, member: str, reason: str) -> EnvforgeError:
    """Return the error for a package that must not be installed because of one of its files."""
    return EnvforgeError(
        f"`{artifact.file_name}` is not safe to install: its file `{printable(member)}` {reason}",
        hint=(Hint("nothing was installed; report this to the publisher"), _EXCLUDE),
        code="archive-refused",
    )


def archive_damaged(artifact: Artifact, reason: str) -> EnvforgeError:
    """Return the error for a package that has the locked checksum, but can't be read."""
    return EnvforgeError(
        f"`{artifact.file_name}` has the locked checksum, but is not a readable package: {reason}",
        hint=(_EXCLUDE,),
        code="archive-damaged",
    )


def placeholders(folder: Path) -> Iterator[bytes]:
    """Yield the placeholders in binary files, which a longer path can't replace."""
    for row in rattler.PathsJson.from_package_directory_with_deprecated_fallback(folder).paths:
        if row.prefix_placeholder is not None and row.prefix_placeholder.file_mode.mode == "binary":
            yield row.prefix_placeholder.placeholder.encode()
