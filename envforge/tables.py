"""Read the bundled TOML data files in a fifth of the time that a TOML parser needs.

Most commands start by reading them. Nearly every line is a comment, a header, or a name with a value that is also
JSON; a file with any other line is read by the TOML parser.
"""

from __future__ import annotations

import json
import re
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VALUE = re.compile(r'(?:"[^"\\\x7f]*"|true|false|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|[\[\], ])+')


# tomllib needs longer for these 75 KB than click needs to start; a cache or a copy in another format could become
# stale
def read_tables(text: str) -> dict[str, Any]:
    """Return the tables of a data file; raise ``toml.TOMLDecodeError`` if it isn't valid TOML."""
    try:
        return _read_plain(text)
    except ValueError:
        from envforge import toml  # noqa: PLC0415 - slow to import, and bundled files rarely need it

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
