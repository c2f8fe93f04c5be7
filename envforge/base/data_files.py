"""Locate and read the files that are part of envforge: data, templates, and lockfiles.

They are in the installed package, or in the checkout next to it.

Most commands start by reading them. Nearly every line is a comment, a header, or a name with a value that is also
JSON; a file with any other line is read by the TOML parser.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]


def templates_root() -> Path:
    """Return the directory of the built-in templates."""
    return _shipped("templates")


def lockfiles_root() -> Path:
    """Return the directory of the built-in lockfiles."""
    return _shipped("lockfiles")


def read_data(name: str) -> dict[str, Any]:
    """Read a bundled TOML data file. Tests validate all of them, so errors aren't handled here."""
    return read_tables((_PACKAGE / "data" / name).read_text(encoding="utf-8"))


def data_folder() -> Path:
    """Return the directory of the data files, for files that other programs read."""
    return _PACKAGE / "data"


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VALUE = re.compile(r'(?:"[^"\\\x7f]*"|true|false|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|[\[\], ])+')


# tomllib needs longer for these 75 KB than click needs to start; a cache or a copy in another format could become
# stale
def read_tables(text: str) -> dict[str, Any]:
    """Return the tables of a data file; raise ``toml.TOMLDecodeError`` if it isn't valid TOML."""
    try:
        return _read_plain(text)
    except ValueError:
        from envforge.base import toml  # noqa: PLC0415 - slow to import, and bundled files rarely need it

        return toml.loads(text)


def _read_plain(text: str) -> dict[str, Any]:
    """Parse a file that has only such lines; raise ``ValueError`` for any other line."""
    top: dict[str, Any] = {}
    rows: dict[str, list[Any]] = {}
    table = top
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[["):
            table = _row(line, top, rows)
        elif line.startswith("["):
            table = _table(line, top)
        else:
            name, _, value = line.partition(" = ")
            if not _VALUE.fullmatch(value):
                raise ValueError(line)
            table[_new(name, table)] = json.loads(value)
    return top


def _row(header: str, top: dict[str, Any], rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Add a table to the array that ``[[name]]`` names."""
    if not header.endswith("]]"):
        raise ValueError(header)
    name, row = header[2:-2], dict[str, Any]()
    if name not in rows:
        top[_new(name, top)] = rows[name] = []
    rows[name].append(row)
    return row


def _table(header: str, top: dict[str, Any]) -> dict[str, Any]:
    """Add the table of ``[name]`` or ``[outer.name]``."""
    outer, dot, name = header[1:-1].rpartition(".")
    place = top.setdefault(outer if _NAME.fullmatch(outer) else _new(outer, top), {}) if dot else top
    if not header.endswith("]") or not isinstance(place, dict):
        raise ValueError(header)
    place[_new(name, place)] = table = dict[str, Any]()
    return table


def _new(name: str, table: dict[str, Any]) -> str:
    """Return the name; raise ``ValueError`` if it isn't a bare key or is a duplicate."""
    if name in table or not _NAME.fullmatch(name):
        raise ValueError(name)
    return name
