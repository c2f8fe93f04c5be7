"""Render a report as JUnit XML for CI: a test case for each finding, a suite for each question."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from envforge.verify.reports.words import printable
from envforge.verify.values import QUESTIONS, Finding, Report, Verdict


def render(report: Report, *, strict: bool = False) -> bytes:
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
