"""Hash file contents without the prefix, so that one lockfile has the same digest wherever it is installed.

The normal content of a file is its content in the archive, with the package's own placeholder in place of the prefix.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PLACEHOLDER = "/prefix"
_LARGEST = 1 << 24
_OF_INSTALLERS = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
# uv, rattler, and pip start a path through sh if it is too long for a first line or contains a space
_LONG_FIRST_LINE = re.compile(rb"\A#!/bin/sh\n'''exec' [\"']?([^\"'\n]+?)[\"']? \"\$0\" \"\$@\"(?: #'''|\n' ''')\n")


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
        content = _LONG_FIRST_LINE.sub(rb"#!\1\n", content, count=1)
    return hashlib.sha256(content.replace(old, new)).hexdigest()


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
    for row in csv.reader(io.StringIO(content.decode("utf-8"))):
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
    hasher = hashlib.sha256()
    for path, held in sorted(dict(lines).items()):
        hasher.update(f"{path}\0{held}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()
