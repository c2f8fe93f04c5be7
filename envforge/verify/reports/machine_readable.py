"""Render a report as JSON and as JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from envforge.base.data_files import data_folder
from envforge.base.envelope import SCHEMA_VERSION, Json
from envforge.verify.record import record_schema, record_to_json
from envforge.verify.reports.facts import outcome, printable
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


def render_junit(report: Report, *, strict: bool = False) -> bytes:
    """Return the XML. Only findings that fail the run are failures; SKIP and UNKNOWN contain their reason."""
    root = Element("testsuites", name="envforge verify")
    seconds = {item.what: item.seconds for item in report.record.observed}
    totals = [0, 0, 0]
    for question in QUESTIONS:
        findings = [finding for finding in report.findings if finding.question == question]
        if findings:
            suite = _suite(question, findings, strict=strict)
            suite.set("time", f"{seconds.get(question, 0.0):.3f}")
            # the JUnit schema permits no time zone
            suite.set("timestamp", report.record.created_at.replace(tzinfo=None).isoformat(timespec="seconds"))
            suite.set("hostname", "localhost")
            root.append(suite)
            totals = [a + int(suite.get(name, "0")) for a, name in zip(totals, _COUNTS, strict=True)]
    for name, total in zip(_COUNTS, totals, strict=True):
        root.set(name, str(total))
    root.set("errors", "0")
    indent(root)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


_COUNTS = ("tests", "failures", "skipped")


def _suite(question: str, findings: Iterable[Finding], *, strict: bool) -> Element:
    suite = Element("testsuite", name=f"envforge.verify.{question}")
    found = list(findings)
    failures = skipped = 0
    for finding in found:
        subject = f" [{printable(finding.subject)}]" if finding.subject else ""
        name = f"{finding.check}{subject}"
        case = SubElement(suite, "testcase", name=name, classname=f"envforge.verify.{question}", time="0")
        if finding.fails or (strict and finding.verdict is Verdict.WARN):
            message = printable(finding.observed)
            SubElement(case, "failure", message=message, type=finding.verdict.value).text = _body(finding)
            failures += 1
        elif finding.verdict in (Verdict.SKIP, Verdict.UNKNOWN):
            SubElement(case, "skipped", message=printable(f"{finding.verdict.value}: {finding.observed}"))
            skipped += 1
        else:
            SubElement(case, "system-out").text = _body(finding)
    for name, value in zip(_COUNTS, (len(found), failures, skipped), strict=True):
        suite.set(name, str(value))
    suite.set("errors", "0")
    return suite


def _body(finding: Finding) -> str:
    rows = (
        ("verdict", finding.verdict.value),
        ("observed", finding.observed),
        ("expected", finding.wanted),
        ("read from", finding.source),
        ("why", finding.why),
        ("run", finding.command),
    )
    return "\n".join(f"{label}: {printable(value)}" for label, value in rows if value)
