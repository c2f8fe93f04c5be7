"""Render a comparison of machines for the terminal, and as JSON, Markdown, and HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envforge.base.envelope import Json
from envforge.verify.compare import Comparison, Row
from envforge.verify.reports.facts import printable
from envforge.verify.reports.html import page
from envforge.verify.reports.text import escape

_NOT_OBSERVED = "not observed"
_COLUMNS = 8  # a table for more machines has no column for each
_NAMED = 20  # more machines are counted, not named


def headline(comparison: Comparison) -> str:
    """Return the result in one sentence."""
    count = len(comparison.names)
    different = len(comparison.different)
    if not different:
        return f"{count} machines match"
    values = "1 value" if different == 1 else f"{different} values"
    odd = [name for name, _ in comparison.outliers]
    named = f"; different from the majority: {_some(odd)}" if odd else ""
    return f"{count} machines differ in {values}{named}"


def _some(names: Sequence[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])}, and {len(names) - _NAMED} others"


def to_words(comparison: Comparison, width: int, *, verbose: bool) -> Iterator[str]:
    """Yield the lines for the terminal: each difference as a block, with a line for each value and its machines."""
    yield from textwrap.wrap(printable(headline(comparison)), width)
    group = ""
    for row in comparison.rows if verbose else comparison.different:
        if row.group != group:
            group = row.group
            yield ""
            yield group
        yield f"  {printable(row.name)}"
        for group_of in grouped(row, comparison.names):
            odd = "  <- different from the majority" if group_of.is_odd else ""
            yield from textwrap.wrap(
                f"{printable(group_of.machines)}: {printable(group_of.value)}{odd}",
                width,
                initial_indent="    ",
                subsequent_indent="      ",
                break_on_hyphens=False,
                break_long_words=False,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The machines that have one value; many are counted, not named."""

    value: str
    machines: str
    is_odd: bool


def grouped(row: Row, names: tuple[str, ...]) -> tuple[Group, ...]:
    """Group the machines of a row by their value, the value of most machines last if there are many."""
    found: dict[tuple[str, bool], list[str]] = {}
    for cell, name in zip(row.cells, names, strict=True):
        value = cell.text if cell.text is not None else _NOT_OBSERVED
        note = f" ({cell.note})" if cell.note else ""
        found.setdefault((value + note, cell.is_odd), []).append(name)
    most = max(map(len, found.values()))
    groups = list(found.items())
    if most > _NAMED:
        groups.sort(key=lambda group: len(group[1]) == most)
    last = groups[-1][1]
    return tuple(
        Group(value=value, is_odd=is_odd, machines=_machines(having, len(names), is_last=having is last))
        for (value, is_odd), having in groups
    )


def _machines(names: Sequence[str], total: int, *, is_last: bool) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    if len(names) == total:
        return f"all {total}"
    return f"{len(names)} others" if is_last else _some(names)


def to_json(comparison: Comparison) -> dict[str, Json]:
    """Return the result of ``compare --json``."""
    return {
        "machines": list(comparison.names),
        "tolerance": comparison.tolerance,
        "outliers": [
            {"machine": name, "rows": [{"group": row.group, "name": row.name} for row in rows]}
            for name, rows in comparison.outliers
        ],
        "rows": [
            {
                "kind": row.kind,
                "group": row.group,
                "name": row.name,
                "differs": row.differs,
                "cells": [{"text": cell.text, "is_odd": cell.is_odd, "note": cell.note} for cell in row.cells],
            }
            for row in comparison.rows
        ],
    }


def to_markdown(comparison: Comparison) -> str:
    """Return the differences as one table: a column for each machine, or for many machines a row for each value."""
    lines = ["## envforge compare", "", f"{escape(headline(comparison))}."]
    if comparison.different:
        has_few = len(comparison.names) <= _COLUMNS
        lines += ["", *(_columns(comparison) if has_few else _values(comparison))]
    return "\n".join(lines) + "\n"


def _columns(comparison: Comparison) -> Iterator[str]:
    yield "| | " + " | ".join(escape(name) for name in comparison.names) + " |"
    yield "|---" * (len(comparison.names) + 1) + "|"
    for row in comparison.different:
        cells = []
        for cell in row.cells:
            text = escape(cell.text if cell.text is not None else _NOT_OBSERVED)
            note = f"<br>{escape(cell.note)}" if cell.note else ""
            cells.append((f"**{text}**" if cell.is_odd else text) + note)
        yield f"| {escape(row.group)}: {escape(row.name)} | " + " | ".join(cells) + " |"


def _values(comparison: Comparison) -> Iterator[str]:
    yield from ("| | value | machines |", "|---|---|---|")
    for row in comparison.different:
        for group in grouped(row, comparison.names):
            value = f"**{escape(group.value)}**" if group.is_odd else escape(group.value)
            yield f"| {escape(row.group)}: {escape(row.name)} | {value} | {escape(group.machines)} |"


def to_html(comparison: Comparison) -> str:
    """Return the page: the differences as a table, everything else folded."""
    return page(
        "compare.html.jinja",
        comparison=comparison,
        headline=headline(comparison),
        grouped=None if len(comparison.names) <= _COLUMNS else lambda row: grouped(row, comparison.names),
        same=tuple(row for row in comparison.rows if not row.differs),
    )


def make_schema() -> dict[str, Json]:
    """Return the JSON Schema of the document that ``compare --json`` prints."""
    text: Json = {"type": "string"}
    cell = _object({"text": {"type": ["string", "null"]}, "is_odd": {"type": "boolean"}, "note": text})
    row = _object(
        {
            "kind": {"enum": ["fact", "speed", "finding"]},
            "group": text,
            "name": text,
            "differs": {"type": "boolean"},
            "cells": {"type": "array", "items": cell},
        }
    )
    reference = _object({"group": text, "name": text})
    outlier = _object({"machine": text, "rows": {"type": "array", "items": reference}})
    result = _object(
        {
            "machines": {"type": "array", "items": text, "minItems": 2},
            "tolerance": {"type": "number", "minimum": 0},
            "outliers": {"type": "array", "items": outlier},
            "rows": {"type": "array", "items": row},
        }
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "envforge compare --json",
        **_object(
            {
                "schema_version": {"const": 1},
                "command": {"const": "compare"},
                "ok": {"type": "boolean"},
                "result": result,
            }
        ),
    }


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
