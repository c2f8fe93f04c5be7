"""Read the packages of a prefix from its ``conda-meta`` directory."""

from __future__ import annotations

import json
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.solver.records import Record


def read(prefix: Path) -> tuple[Record, ...]:
    """Return the installed packages, sorted by name; raise ``EnvforgeError`` for an invalid entry."""
    folder = prefix / "conda-meta"
    if not folder.is_dir():
        raise EnvforgeError(
            f"`{prefix}` is not an environment: it has no directory `conda-meta`", code="not-an-environment"
        )
    return tuple(sorted((_record(path) for path in folder.glob("*.json")), key=lambda record: record.name))


def _record(path: Path) -> Record:
    try:
        return Record.from_mapping(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise EnvforgeError(
            f"`{path}` is not a package record: {type(error).__name__}: {error}", code="bad-prefix-record"
        ) from error
