"""Hash files in threads, and skip files that haven't changed since the last audit.

``PREFIX/.envforge/audit.json`` stores the size, mtime, inode, and SHA-256 of each file. A file that changed less than
two seconds before it was read isn't stored, because another change within the same clock tick couldn't be detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge.audit.inventory import Entry
from envforge.errors import OutsideError
from envforge.install.journal import FOLDER, write_whole
from envforge.install.values import Progress

SCHEMA_VERSION = 1
_BATCH_FILES = 128
_BATCH_BYTES = 1 << 25
_BLOCK = 1 << 20
_SETTLED_NS = 2_000_000_000

Known = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashes:
    """The SHA-256 of each file, and how many were read now; ``notes`` report problems with the cache."""

    sha256: Mapping[str, str]
    read_files: int
    read_bytes: int
    notes: tuple[str, ...]


def hash_files(
    prefix: Path, wanted: Collection[str], inventory: Mapping[str, Entry], progress: Progress, *, full: bool
) -> Hashes:
    """Hash the files ``wanted``, which must be in the inventory; ``full`` ignores the cached hashes."""
    kept, notes = _load(prefix)
    known: Known = {}
    for path in wanted:
        row, entry = kept.get(path), inventory[path]
        if row is not None and not full and row[:3] == [entry.size, entry.mtime_ns, entry.inode]:
            known[path] = row
    unknown = [path for path in wanted if path not in known]
    latest_ns = time.time_ns() - _SETTLED_NS
    fresh = _read_all(prefix, unknown, inventory, progress)
    settled = {
        path: [*inventory[path][:3], digest] for path, digest in fresh.items() if inventory[path].mtime_ns < latest_ns
    }
    if settled or len(known) != len(kept):
        notes += _save(prefix, known | settled)
    return Hashes(
        sha256={path: row[3] for path, row in known.items()} | fresh,
        read_files=len(unknown),
        read_bytes=sum(inventory[path].size for path in unknown),
        notes=notes,
    )


def _read_all(prefix: Path, paths: list[str], inventory: Mapping[str, Entry], progress: Progress) -> dict[str, str]:
    """Read in batches of many small files or one large file, so that threads spend their time hashing."""
    if not paths:
        return {}
    progress.begin("reading files", sum(inventory[path].size for path in paths), "bytes")
    found: dict[str, str] = {}
    try:
        with ThreadPoolExecutor() as pool:
            for digests in pool.map(lambda batch: _hash_batch(prefix, batch), _batches(paths, inventory)):
                found |= digests
                progress.advance(sum(inventory[path].size for path in digests))
    finally:
        progress.end()
    return found


def _batches(paths: Iterable[str], inventory: Mapping[str, Entry]) -> list[list[str]]:
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
    found, buffer = {}, memoryview(bytearray(_BLOCK))
    for name in batch:
        hasher = hashlib.sha256()
        try:
            with open(f"{prefix}/{name}", "rb", buffering=0) as stream:  # noqa: PTH123 - a Path for each file is slow
                while count := stream.readinto(buffer):
                    hasher.update(buffer[:count])
        except OSError as error:
            raise OutsideError(
                f"cannot read `{prefix}/{name}`: {error.strerror}",
                hint="run this command as the user who owns the environment, and while no other command changes it",
                code="file-unreadable",
            ) from error
        found[name] = hasher.hexdigest()
    return found


def _load(prefix: Path) -> tuple[Known, tuple[str, ...]]:
    """Return the hashes of the last audit, or a note if their file is invalid."""
    path = prefix / FOLDER / "audit.json"
    try:
        return _parse(json.loads(path.read_bytes())), ()
    except FileNotFoundError:
        return {}, ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, (f"`{path}` is invalid ({error}); reading every file again",)


def _parse(document: Any) -> Known:
    if document["schema_version"] != SCHEMA_VERSION:
        return {}  # written by another version of envforge, so neither corrupt nor usable
    files: Known = document["files"]
    if not all(len(row) == 4 and isinstance(row[3], str) for row in files.values()):
        raise ValueError("files: expected size, time, inode, and sha256 of each")
    return files


def _save(prefix: Path, rows: Known) -> tuple[str, ...]:
    """Store the hashes, unless envforge did not create the prefix or can't write to it."""
    folder = prefix / FOLDER
    if not folder.is_dir():
        return ()
    if not os.access(folder, os.W_OK):
        return (f"`{folder}` is not writable, so the next audit reads every file again",)
    document = {"schema_version": SCHEMA_VERSION, "files": dict(sorted(rows.items()))}
    write_whole(folder / "audit.json", json.dumps(document, separators=(",", ":")).encode())
    return ()
