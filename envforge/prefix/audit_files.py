"""Compare every file of a prefix with the records of its packages.

``.envforge`` (envforge's own records) and ``__pycache__`` (written by Python) are omitted.

The normal content of a file is its content in the archive, with the package's own placeholder in place of the prefix.

Files with legitimate differences aren't checked: bytecode (``__pycache__``, ``.pyc``), records of a wheel's installer,
and files that the link script of their package mentions.

``PREFIX/.envforge/audit.json`` stores the size, mtime, inode, and SHA-256 of each file. A file that changed less than
two seconds before it was read isn't stored, because another change within the same clock tick couldn't be detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Literal, NamedTuple

from msgspec import Struct

from envforge.base.documents import Document
from envforge.base.files import write_atomic
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.lockfile import Manager
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.cache import hash_file, walk
from envforge.prefix.installed import Claim, CondaPackage, Distribution, read_record
from envforge.prefix.values import InstallProgress, progress_step

FindingKind = Literal[
    "package-missing",
    "package-extra",
    "package-version",
    "package-build",
    "package-origin",
    "package-editable",
    "file-changed",
    "file-missing",
    "file-stray",
    "owned-twice",
    "openmp",
]


class AuditFinding(Struct, frozen=True, kw_only=True):
    """One difference or risk. ``package`` and ``manager`` identify the owner; they are empty if there is none."""

    kind: FindingKind
    text: str
    package: str = ""
    manager: Manager | None = None
    path: str = ""
    wanted: str = ""
    found: str = ""


class FileEntry(NamedTuple):
    """A file or a link; ``target`` is None for a file. A tuple, because a prefix has tens of thousands of files."""

    size: int
    mtime_ns: int
    inode: int
    target: str | None


def read_inventory(prefix: Path) -> dict[str, FileEntry]:
    """Return every file and link by its path in the prefix; links to directories are not followed."""
    found: dict[str, FileEntry] = {}
    for name, entry, state in walk(prefix, skip={ENVFORGE_DIRECTORY, "__pycache__"}):
        if S_ISLNK(state.st_mode):
            found[name] = FileEntry(0, 0, 0, os.readlink(entry.path))  # noqa: PTH115 - a Path for each file is slow
        elif S_ISREG(state.st_mode):
            found[name] = FileEntry(state.st_size, state.st_mtime_ns, state.st_ino, None)
    return found


PLACEHOLDER = "/prefix"
_LARGEST = 1 << 24
_LONGEST_LAUNCHER = 4096
_OF_INSTALLERS = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
# uv, rattler, and pip start a path through sh if it is too long for a first line or contains a space
_LONG_FIRST_LINE = re.compile(rb"\A#!/bin/sh\n'''exec' [\"']?([^\"'\n]+?)[\"']? \"\$0\" \"\$@\"(?: #'''|\n' ''')\n")

# the programs that conda, mamba, and rattler (with a tab), pip, and uv write for an entry point, byte for byte
_FIRST = r"#!(?P<prefix>.+)/bin/python[\d.]*\n"
_START = rf"{_FIRST}# -\*- coding: utf-8 -\*-\n"
_ENTRY = r"(?P<entry>from [\w.]+ import \w+)\n"
_EXIT = r"sys\.exit\((?P<call>[\w.]+)\(\)\)\n?"
_PIP = r"    sys\.argv\[0\] = sys\.argv\[0\]\.removesuffix\('\.exe'\)\n    "  # of pip 26
_SUB = r"sys\.argv\[0\] = re\.sub\(r'\(-script\\\.pyw\??\|\\\.exe\)\?\$', '', sys\.argv\[0\]\)\n"
_UV = (
    r'    if sys\.argv\[0\]\.endswith\("-script\.pyw"\):\n        sys\.argv\[0\] = sys\.argv\[0\]\[:-11\]\n'
    r'    elif sys\.argv\[0\]\.endswith\("\.exe"\):\n        sys\.argv\[0\] = sys\.argv\[0\]\[:-4\]\n    '
)
_MAIN = r"if __name__ == ['\"]__main__['\"]:\n"
_LAUNCHERS = tuple(
    re.compile(text)
    for text in (
        rf"{_START}import re\nimport sys\n\n{_ENTRY}\n{_MAIN}(?P<tab>\t|    ){_SUB}(?P=tab){_EXIT}",
        rf"{_START}import re\nimport sys\n{_ENTRY}{_MAIN}    {_SUB}    {_EXIT}",
        rf"{_START}import sys\n{_ENTRY}{_MAIN}{_UV}{_EXIT}",
        rf"{_FIRST}import sys\n{_ENTRY}{_MAIN}{_PIP}{_EXIT}",
    )
)


def is_installers_note(path: str) -> bool:
    """Return whether a file of a ``.dist-info`` records who installed it and how, which is not part of the digest."""
    folder, _, name = path.rpartition("/")
    return name in _OF_INSTALLERS and folder.endswith(".dist-info")


def normal_sha256(content: bytes, prefix: str, placeholder: str) -> str:
    """Return the SHA-256 of a file's content with ``placeholder`` in place of the prefix."""
    old, new = prefix.encode(), (placeholder or PLACEHOLDER).encode()
    if b"\0" in content and placeholder:
        return hashlib.sha256(_unpadded(content, old, new)).hexdigest()
    if b"\0" not in content:
        content = _normal_launcher(_LONG_FIRST_LINE.sub(rb"#!\1\n", content, count=1))
    return hashlib.sha256(content.replace(old, new)).hexdigest()


def _normal_launcher(content: bytes) -> bytes:
    """Return the prefix and the entry point of a generated launcher; any other content is unchanged."""
    if not content.startswith(b"#!") or len(content) > _LONGEST_LAUNCHER:
        return content
    text = content.decode("utf-8", "surrogateescape")
    match = next((found for launcher in _LAUNCHERS if (found := launcher.fullmatch(text))), None)
    if match is None:
        return content
    lines = (f"#!{match['prefix']}/bin/python", match["entry"], match["call"])
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _unpadded(content: bytes, old: bytes, new: bytes) -> bytes:
    """Restore a longer placeholder in NUL-terminated strings, and remove the NULs that padded the shorter prefix."""
    parts = []
    position = 0
    while (start := content.find(old, position)) >= 0:
        end = content.find(b"\0", start)
        end = len(content) if end < 0 else end
        text = content[start:end].replace(old, new)
        room = len(text) - (end - start)
        parts += [content[position:start], text]
        position = end + (room if content[end : end + room] == b"\0" * room else 0)
    return b"".join([*parts, content[position:]])


def normal_record(content: bytes) -> str:
    """Return the SHA-256 of a ``RECORD`` without rows written at install: checksums of scripts, bytecode, notes."""
    rows = []
    for row in read_record(content):
        if "__pycache__" in row[0] or is_installers_note(row[0]):
            continue
        rows.append(row[0] if row[0].startswith("..") else ",".join(row))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def normal_file(prefix: Path, path: str, size: int, *, placeholder: str) -> str | None:
    """Return the normal SHA-256 of a file, or None if it is too large to be searched for the prefix."""
    if size > _LARGEST:
        return None
    content = (prefix / path).read_bytes()
    if path.endswith(".dist-info/RECORD"):
        return normal_record(content)
    return normal_sha256(content, str(prefix), placeholder)


def digest_of(lines: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Return one SHA-256 over paths and their contents, in the order of the paths."""
    text = "".join(f"{path}\0{held}\n" for path, held in sorted(dict(lines).items()))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


_NOTHING = hashlib.sha256(b"").hexdigest()
# shorter names are words of any script
_SHORTEST_NAME = 4


class Owned(Struct, frozen=True):
    """A file with the package that lists it."""

    claim: Claim
    manager: Manager
    package: str
    label: str


class Files(Struct, frozen=True, kw_only=True, dict=True):
    """The files of one prefix: those that exist, and those that packages list.

    ``library`` is the directory from which Python imports (the standard library with site-packages); None without
    Python. ``unlisted`` are files there that the creator of a virtual environment wrote.
    """

    prefix: Path
    inventory: Mapping[str, FileEntry]
    conda: tuple[CondaPackage, ...]
    wheels: tuple[Distribution, ...]
    library: str | None
    unlisted: frozenset[str] = frozenset()

    @cached_property
    def owned(self) -> dict[str, list[Owned]]:
        """The claims on each path, conda's first. If a wheel replaced a file of conda, both claims are listed."""
        found: dict[str, list[Owned]] = {}
        for package in self.conda:
            label = f"{package.name} {package.version}"
            for claim in package.claims:
                if not _is_bytecode(claim.path):
                    found.setdefault(claim.path, []).append(Owned(claim, "conda", package.name, label))
        for wheel in self.wheels:
            label = f"{wheel.name} {wheel.version}"
            for claim in wheel.claims:
                if not _is_bytecode(claim.path):
                    found.setdefault(claim.path, []).append(Owned(claim, "pip", wheel.name, label))
        return found

    @cached_property
    def places(self) -> dict[str, str]:
        """The real path of each claimed path, which may lead through a linked directory; missing files are omitted."""
        found = {}
        for path in self.owned:
            place = path if path in self.inventory else self._through_links(path)
            if place in self.inventory:
                found[path] = place
        return found

    @cached_property
    def strays(self) -> tuple[str, ...]:
        """Files in Python's library directory that belong to no package and are not mentioned by a link script."""
        # all of lib/pythonX.Y, because usercustomize.py there runs at start, as site-packages/sitecustomize.py does
        claimed = {*self.owned, *self.places.values(), *self.unlisted}
        beginning = f"{self.library}/"
        return tuple(
            sorted(
                path
                for path in self.inventory
                if self.library is not None
                and path.startswith(beginning)
                and path not in claimed
                and not _is_bytecode(path)
                and not self._is_of_a_script(path, None)
            )
        )

    @cached_property
    def unowned(self) -> int:
        """Number of files that belong to no package and are not stray: settings, data, output of link scripts."""
        claimed = {*self.owned, *self.places.values(), *self.strays}
        return sum(
            path not in claimed and not path.startswith("conda-meta/") and not _is_bytecode(path)
            for path in self.inventory
        )

    @cached_property
    def to_hash(self) -> tuple[str, ...]:
        """Regular files whose content is compared or is part of the digest."""
        chosen = dict.fromkeys((*self.places.values(), *self.strays))
        return tuple(path for path in chosen if self.inventory[path].target is None)

    def findings(self, sha256: Mapping[str, str]) -> Iterator[AuditFinding]:
        """Yield the differences, by path."""
        for path, claims in sorted(self.owned.items()):
            place = self.places.get(path)
            if place is None:
                yield from self._missing(path, claims[-1])
            elif not self._intact(path, place, claims, sha256):
                yield from self._changed(path, place, claims[-1], sha256)
        for wheel in self.wheels:
            if not wheel.has_record:
                record = f"{wheel.folder}/RECORD"
                text = f"`{record}` is missing, so the files of {wheel.name} are unknown"
                yield AuditFinding(kind="file-missing", text=text, package=wheel.name, manager="pip", path=record)
        for path in self.strays:
            yield AuditFinding(kind="file-stray", text=f"`{path}` belongs to no package", path=path)

    def digest_lines(self, sha256: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield each file with its normal content, each link with its target, and each conda record with its origin."""
        for package in self.conda:
            yield f"conda-meta/{package.stem}.json", package.sha256 or package.md5 or ""
        for path, claims in self.owned.items():
            place = self.places.get(path)
            if place is None or is_installers_note(path):
                continue
            target = self.inventory[place].target
            if target is not None:
                yield path, f"-> {target.replace(str(self.prefix), '')}"
            else:
                yield path, self._normal(place, claims, sha256[place])
        for path in self.strays:
            target = self.inventory[path].target
            yield path, self._read_normal(path, "", sha256[path]) if target is None else f"-> {target}"

    def _normal(self, place: str, claims: Iterable[Owned], digest: str) -> str:
        placeholder = ""
        for claim in (owned.claim for owned in claims):
            placeholder = placeholder or claim.placeholder
            if digest == claim.sha256 and claim.archived is not None and not claim.holds_prefix:
                return claim.archived
            if digest == claim.sha256 and not claim.holds_prefix:
                return digest
        return self._read_normal(place, placeholder, digest)

    def _read_normal(self, place: str, placeholder: str, digest: str) -> str:
        size = self.inventory[place].size
        return normal_file(self.prefix, place, size, placeholder=placeholder) or digest

    def _intact(self, path: str, place: str, claims: Iterable[Owned], sha256: Mapping[str, str]) -> bool:
        entry = self.inventory[place]
        for owned in claims:
            claim = owned.claim
            if claim.sha256 is None or (owned.manager == "pip" and is_installers_note(path)):
                return True
            if entry.target is None:
                if not claim.is_link and sha256[place] == claim.sha256:
                    return True
            elif claim.is_link and self._link_intact(place, entry.target, claim, sha256):
                return True
        return False

    def _link_intact(self, place: str, target: str, claim: Claim, sha256: Mapping[str, str]) -> bool:
        """Return whether a link is the one of its package.

        rattler records the SHA-256 of the target's name, conda-build the SHA-256 of the target's content. A link
        recorded with the hash of empty content is accepted. If the target contains the prefix, its hash in the archive
        is compared.
        """
        wanted = {claim.sha256, claim.archived}
        if hashlib.sha256(target.encode()).hexdigest() in wanted or claim.sha256 == _NOTHING:
            return True
        arrived = self._through_links(posixpath.normpath(posixpath.join(posixpath.dirname(place), target)))
        archived = {owned.claim.archived for owned in self.owned.get(arrived, ())}
        return bool(({sha256.get(arrived)} | archived) - {None} & wanted)

    def _through_links(self, path: str) -> str:
        """Return the real path, relative to the prefix."""
        arrived = os.path.realpath(self.prefix / path)
        return posixpath.relpath(arrived, os.path.realpath(self.prefix))

    def _missing(self, path: str, owned: Owned) -> Iterator[AuditFinding]:
        if owned.manager == "pip" and is_installers_note(path):
            return
        yield AuditFinding(
            kind="file-missing",
            text=f"`{path}` of `{owned.label}` is missing",
            package=owned.package,
            manager=owned.manager,
            path=path,
        )

    def _changed(self, path: str, place: str, owned: Owned, sha256: Mapping[str, str]) -> Iterator[AuditFinding]:
        if self._is_of_a_script(path, owned.package):
            return
        target = self.inventory[place].target
        found = f"sha256:{sha256[place]}" if target is None else f"a link to {target}"
        yield AuditFinding(
            kind="file-changed",
            text=f"`{path}` of `{owned.label}` differs from its package",
            package=owned.package,
            manager=owned.manager,
            path=path,
            wanted=f"sha256:{owned.claim.sha256}",
            found=found,
        )

    @cached_property
    def _scripts(self) -> dict[str, str]:
        """The text of each package's link script."""
        found = {}
        for package in self.conda:
            for path in (f"bin/.{package.name}-post-link.sh", f"Scripts/.{package.name}-post-link.bat"):
                if path in self.inventory:
                    found[package.name] = (self.prefix / path).read_text(encoding="utf-8", errors="replace")
        return found

    def _is_of_a_script(self, path: str, package: str | None) -> bool:
        """Return whether a link script mentions the file: the script of ``package``, or any script if it is None."""
        name = posixpath.basename(path)
        texts = self._scripts.values() if package is None else [self._scripts.get(package, "")]
        return len(name) >= _SHORTEST_NAME and any(name in text for text in texts)


def _is_bytecode(path: str) -> bool:
    return path.endswith((".pyc", ".pyo")) or "/__pycache__/" in path


SCHEMA_VERSION = 1
_BATCH_FILES = 128
_BATCH_BYTES = 1 << 25
# file systems such as FAT store times in steps of two seconds, in which a change could go unnoticed
_SETTLED_NS = 2_000_000_000

Known = dict[str, tuple[int, int, int, str]]


class FileHashes(Struct, frozen=True, kw_only=True):
    """The SHA-256 of each file, and how many were read now; ``notes`` report problems with the cache."""

    sha256: Mapping[str, str]
    read_files: int
    read_bytes: int
    notes: tuple[str, ...]


def hash_files(
    prefix: Path, wanted: Collection[str], inventory: Mapping[str, FileEntry], progress: InstallProgress, *, full: bool
) -> FileHashes:
    """Hash the files ``wanted``, which must be in the inventory; ``full`` ignores the cached hashes."""
    kept, notes = _load(prefix)
    known: Known = {}
    for path in wanted:
        row, entry = kept.get(path), inventory[path]
        if row is not None and not full and row[:3] == entry[:3]:
            known[path] = row
    unknown = [path for path in wanted if path not in known]
    # before the files are read: a change during the audit must not have the hash of an earlier content
    latest_ns = time.time_ns() - _SETTLED_NS
    fresh = _read_all(prefix, unknown, inventory, progress)
    settled = {
        path: (*inventory[path][:3], digest) for path, digest in fresh.items() if inventory[path].mtime_ns < latest_ns
    }
    if settled or len(known) != len(kept):
        notes += _save(prefix, known | settled)
    return FileHashes(
        sha256={path: row[3] for path, row in known.items()} | fresh,
        read_files=len(unknown),
        read_bytes=sum(inventory[path].size for path in unknown),
        notes=notes,
    )


def _read_all(
    prefix: Path, paths: list[str], inventory: Mapping[str, FileEntry], progress: InstallProgress
) -> dict[str, str]:
    """Read in batches of many small files or one large file, so that threads spend their time hashing."""
    if not paths:
        return {}
    found: dict[str, str] = {}
    total = sum(inventory[path].size for path in paths)
    with progress_step(progress, "reading files", total, "bytes"), ThreadPoolExecutor() as pool:
        for digests in pool.map(lambda batch: _hash_batch(prefix, batch), _batches(paths, inventory)):
            found |= digests
            progress.advance(sum(inventory[path].size for path in digests))
    return found


def _batches(paths: Iterable[str], inventory: Mapping[str, FileEntry]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    size = 0
    for path in sorted(paths, key=lambda path: -inventory[path].size):  # large first, so that none is left for the end
        if len(batches[-1]) >= _BATCH_FILES or (batches[-1] and size + inventory[path].size > _BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(path)
        size += inventory[path].size
    return batches


def _hash_batch(prefix: Path, batch: list[str]) -> dict[str, str]:
    try:
        return {name: hash_file(f"{prefix}/{name}", hashlib.sha256()) for name in batch}
    except OSError as error:
        raise OutsideError(
            f"cannot read `{error.filename or prefix}`: {error.strerror}",
            hint="run this command as the user who owns the environment, and while no other command changes it",
            code="file-unreadable",
        ) from error


class _Cached(Struct, frozen=True, kw_only=True):
    """The file ``audit.json``: size, mtime in nanoseconds, inode, and SHA-256 of each file."""

    files: dict[str, tuple[int, int, int, str]]
    schema_version: int = SCHEMA_VERSION


def _load(prefix: Path) -> tuple[Known, tuple[str, ...]]:
    """Return the hashes of the last audit, or a note if their file is invalid."""
    path = prefix / ENVFORGE_DIRECTORY / "audit.json"
    if not path.exists():
        return {}, ()
    document = Document(damaged=f"`{path}` is invalid", error=EnvforgeError, code="cache-damaged")
    try:
        cached = document.read_json(document.read_bytes(path), _Cached)
    except EnvforgeError as error:
        return {}, (f"{error.message}; reading every file again",)
    # written by another version of envforge, so neither corrupt nor usable
    return cached.files if cached.schema_version == SCHEMA_VERSION else {}, ()


def _save(prefix: Path, rows: Known) -> tuple[str, ...]:
    """Store the hashes, unless envforge did not create the prefix or can't write to it."""
    folder = prefix / ENVFORGE_DIRECTORY
    if not folder.is_dir():
        return ()
    if not os.access(folder, os.W_OK):
        return (f"`{folder}` is not writable, so the next audit reads every file again",)
    document = {"schema_version": SCHEMA_VERSION, "files": dict(sorted(rows.items()))}
    write_atomic(folder / "audit.json", json.dumps(document, separators=(",", ":")), through_links=False)
    return ()
