"""Convert a report to JSON, and generate the JSON Schema that the package publishes."""

from __future__ import annotations

import json
from typing import Any

from envforge.report import SCHEMA_VERSION, Json
from envforge.resources import data_folder
from envforge.verify.record import record_schema, record_to_json
from envforge.verify.reports.words import outcome
from envforge.verify.values import GROUPS, QUESTIONS, Check, Finding, Report, Verdict

SCHEMA_FILE = "verify-report.schema.json"


def report_to_json(report: Report, *, strict: bool = False) -> dict[str, Json]:
    """Return the result of ``verify --json``: verdict, counts, findings, and the record to judge again."""
    return {
        "outcome": outcome(report, strict=strict).lower(),
        "strict": strict,
        "counts": {verdict.value: count for verdict, count in report.counts.items()},
        "findings": [_finding(finding) for finding in report.findings],
        "record": record_to_json(report.record),
    }


def _finding(finding: Finding) -> dict[str, Json]:
    return {
        "check": finding.check,
        "question": finding.question,
        "group": finding.group,
        "title": finding.title,
        "required": finding.required,
        "verdict": finding.verdict.value,
        "subject": finding.subject,
        "observed": finding.observed,
        "wanted": finding.wanted,
        "source": finding.source,
        "why": finding.why,
        "command": finding.command,
    }


def check_to_json(check: Check) -> dict[str, Json]:
    """Return one item of ``verify --list --json``."""
    return {
        "id": check.id,
        "question": check.question,
        "group": check.group,
        "title": check.title,
        "why": check.why,
        "severity": check.severity.value,
        "cost": check.cost,
        "required": check.required,
        "row": check.row,
    }


def published_schema() -> dict[str, Any]:
    """Read the schema in the package."""
    value: dict[str, Any] = json.loads((data_folder() / SCHEMA_FILE).read_text(encoding="utf-8"))
    return value


def make_schema() -> dict[str, Any]:
    """Generate the JSON Schema of the document that ``verify --json`` prints, from the types."""
    record = record_schema()
    definitions = record.pop("$defs", {})
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
        "$defs": {**definitions, "Finding": finding, "Record": record},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
