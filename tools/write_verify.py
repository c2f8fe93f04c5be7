"""Generate the JSON Schemas of ``verify`` and the check table in docs/verify.md.

Run ``python -m tools.write_verify``; tests compare the files with the code.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from envforge.base.data_files import data_folder
from envforge.base.envelope import SCHEMA_VERSION
from envforge.verify.checks import all_checks
from envforge.verify.record import Record
from envforge.verify.values import GROUPS, QUESTIONS, Check, Verdict

DOCUMENT = Path(__file__).parent.parent / "docs" / "verify.md"
BEGIN, END = "<!-- checks: written by python -m tools.write_verify -->", "<!-- end of checks -->"


def schemas() -> dict[Path, str]:
    """Return the text of each schema by its file."""
    made = {"verify-report.schema.json": report_schema(), "verify-compare.schema.json": comparison_schema()}
    return {data_folder() / name: json.dumps(schema, indent=1, sort_keys=True) + "\n" for name, schema in made.items()}


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema of the document that ``compare --json`` prints."""
    text: dict[str, Any] = {"type": "string"}
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


def report_schema() -> dict[str, Any]:
    """Generate the JSON Schema of the document that ``verify --json`` prints, from the types."""
    definitions = record_definitions()
    text: dict[str, Any] = {"type": "string"}
    texts = ("title", "subject", "observed", "wanted", "source", "why", "command")
    finding = _object(
        {
            "check": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*$"},
            "question": {"enum": list(QUESTIONS)},
            "group": {"enum": list(GROUPS)},
            "required": {"type": "boolean"},
            "verdict": {"enum": [verdict.value for verdict in Verdict]},
            **dict.fromkeys(texts, text),
        }
    )
    count: dict[str, Any] = {"type": "integer", "minimum": 0}
    result = _object(
        {
            "outcome": {"enum": ["pass", "warn", "fail"]},
            "strict": {"type": "boolean"},
            "counts": _object({verdict.value: count for verdict in Verdict}),
            "findings": {"type": "array", "items": {"$ref": "#/$defs/Finding"}},
            "record": {"$ref": "#/$defs/Record"},
        }
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "envforge verify --json",
        **_object(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "command": {"const": "verify"},
                "ok": {"type": "boolean"},
                "result": result,
            }
        ),
        "$defs": {**definitions, "Finding": finding},
    }


def record_definitions() -> dict[str, Any]:
    """Return the definitions of the record and its parts; every document has all of their fields."""
    _, definitions = msgspec.json.schema_components([Record], schema_hook=lambda _: {"type": "string"})
    definitions["Machine"] = {"type": "object", "description": "The record that `envforge detect --json` prints."}
    for definition in definitions.values():
        if "properties" in definition:
            definition["required"] = list(definition["properties"])
    return {name: definitions[name] for name in sorted(_reachable("Record", definitions))}


def _reachable(name: str, definitions: dict[str, Any]) -> set[str]:
    """Return the definitions that this one refers to, itself included; the parts of `Machine` are left over."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        found.add(current := waiting.pop())
        referred = re.findall(r'"#/\$defs/([^"]+)"', json.dumps(definitions[current]))
        waiting += [each for each in referred if each not in found]
    return found


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def table() -> str:
    """Return the table of the built-in checks, by question."""
    lines = [BEGIN]
    for question, checks in groupby(all_checks(), key=lambda check: check.question):
        lines += [
            "",
            f"### {question.capitalize()}",
            "",
            "| check | group | severity | cost | subject, and why it matters |",
        ]
        lines.append("|---|---|---|---|---|")
        lines += [_row(check) for check in checks]
    return "\n".join([*lines, "", END])


def _row(check: Check) -> str:
    required = ", required" if check.required else ""
    words = f"{check.title.rstrip('.')}. {check.why}".replace("|", "\\|").replace("\n", " ")
    return f"| `{check.id}` | {check.group} | {check.severity.value}{required} | {check.cost} | {words} |"


def document(text: str) -> str:
    """Return the document with the current table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{table()}{after}"


def main() -> None:
    """Write all files."""
    for path, text in schemas().items():
        path.write_text(text, encoding="utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
