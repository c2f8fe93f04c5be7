"""A comparison for people and machines: terminal, JSON, Markdown, HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from envforge.report import Json
from envforge.verify.compare import Comparison, Row
from envforge.verify.reports.html import page
from envforge.verify.reports.markdown import escape
from envforge.verify.reports.words import printable

_NOT_OBSERVED = "not observed"


def headline(comparison: Comparison) -> str:
    """The answer in one sentence."""
    count = len(comparison.names)
    different = len(comparison.different)
    if not different:
        return f"{count} machines agree in all that matters"
    things = "1 thing" if different == 1 else f"{different} things"
    odd = [name for name, _ in comparison.outliers]
    named = f"; unlike the others: {', '.join(odd)}" if odd else ""
    return f"{count} machines differ in {things}{named}"


def to_words(comparison: Comparison, width: int, *, verbose: bool) -> Iterator[str]:
    """The lines of the terminal: each difference as a block, with a line for each value and who has it."""
    yield from textwrap.wrap(printable(headline(comparison)), width)
    group = ""
    for row in comparison.rows if verbose else comparison.different:
        if row.group != group:
            group = row.group
            yield ""
            yield group
        yield f"  {printable(row.name)}"
        for value, names in _grouped(row, comparison.names):
            yield from textwrap.wrap(
                f"{names}: {value}",
                width,
                initial_indent="    ",
                subsequent_indent="      ",
                break_on_hyphens=False,
                break_long_words=False,
            )


def _grouped(row: Row, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each value with the machines that have it; the odd ones are marked."""
    found: dict[tuple[str, bool], list[str]] = {}
    for cell, name in zip(row.cells, names, strict=True):
        value = cell.text if cell.text is not None else _NOT_OBSERVED
        note = f" ({cell.note})" if cell.note else ""
        found.setdefault((printable(value + note), cell.is_odd), []).append(printable(name))
    for (value, is_odd), having in found.items():
        yield value + ("  <- unlike the others" if is_odd else ""), ", ".join(having)


def to_json(comparison: Comparison) -> dict[str, Json]:
    """The result of ``compare --json``."""
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
    """The differences as one table."""
    lines = ["## envforge compare", "", f"{escape(headline(comparison))}."]
    if comparison.different:
        lines += ["", "| | " + " | ".join(escape(name) for name in comparison.names) + " |"]
        lines.append("|---" * (len(comparison.names) + 1) + "|")
    for row in comparison.different:
        cells = []
        for cell in row.cells:
            text = escape(cell.text if cell.text is not None else _NOT_OBSERVED)
            note = f"<br>{escape(cell.note)}" if cell.note else ""
            cells.append((f"**{text}**" if cell.is_odd else text) + note)
        lines.append(f"| {escape(row.group)}: {escape(row.name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_html(comparison: Comparison) -> str:
    """The page: the differences as a table, everything else folded."""
    return page(
        "compare.html.jinja",
        comparison=comparison,
        headline=headline(comparison),
        same=tuple(row for row in comparison.rows if not row.differs),
    )


def make_schema() -> dict[str, Json]:
    """The JSON Schema of the whole document that ``compare --json`` prints."""
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
