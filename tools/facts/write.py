"""Write the files of `data/facts/` that a tool keeps up to date, in the layout of hand-written files."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec.structs import fields

from tools.facts.rows import Row

_WIDTH = 110
_ORIGIN = ("source", "checked")  # the last keys of a row


def write_rows(path: Path, comment: str, tables: Mapping[str, Iterable[Row]]) -> None:
    """Write the rows of each table; leave out values that are the default."""
    lines = [comment, ""]
    for name, rows in tables.items():
        for row in rows:
            lines += [f"[[{name}]]"]
            stated = [(each, getattr(row, each.name)) for each in fields(row)]
            values = {each.name: value for each, value in stated if value != each.default}
            for key in sorted(values, key=_ORIGIN.__contains__):
                lines += _entry(key, values[key])
            lines += [""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8", newline="\n")


def _entry(key: str, value: object) -> Iterator[str]:
    text = _value(value)
    if isinstance(value, tuple) and len(key) + len(text) > _WIDTH:
        yield f"{key} = ["
        yield from (f"    {_value(each)}," for each in value)
        yield "]"
    else:
        yield f"{key} = {text}"


def _value(value: object) -> str:
    return value.isoformat() if isinstance(value, dt.date) else json.dumps(value, ensure_ascii=False)
