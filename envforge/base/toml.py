"""Read TOML on every supported Python, and write values as TOML.

To change a file that people edit, use tomlkit, which keeps their comments but takes long to import.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

if sys.version_info >= (3, 11):
    from tomllib import TOMLDecodeError, loads
else:
    from tomli import TOMLDecodeError, loads

__all__ = ["TOMLDecodeError", "dumps", "loads"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


# the bytes must equal those of tomlkit, because the SHA-256 of envforge.toml shows whether someone edited it
def dumps(document: Mapping[str, Any]) -> str:
    """Return the TOML of strings, numbers, booleans, lists, and mappings; the same values produce the same bytes."""
    return "\n".join(_lines(document, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table, values first, because everything after a table header belongs to that table."""
    for name, value in table.items():
        if not _holds_tables(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in table.items():
        if not _holds_tables(value):
            continue
        inner = (*path, _key(name))
        opening, closing = ("[[", "]]") if isinstance(value, list) else ("[", "]")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(value, list) or not each or not all(_holds_tables(item) for item in each.values()):
                yield f"\n{opening}{'.'.join(inner)}{closing}"
            yield from _lines(each, inner)


def _holds_tables(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError(f"TOML has no type for {value!r}")
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace(
        "\x7f", "\\u007f"
    )  # TOML has the escapes of JSON
