"""Render a report as Markdown for an issue: problems in full, the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from envforge.verify.reports.facts import facts
from envforge.verify.reports.words import COUNTED, ORDER, counts, headline, outcome, printable, worst_first
from envforge.verify.values import Finding, Report, Verdict

_OPEN = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)


def render(report: Report, *, strict: bool = False) -> str:
    """Return Markdown that GitHub, GitLab, and others render alike."""
    return "\n".join(_lines(report, strict=strict)) + "\n"


def _lines(report: Report, *, strict: bool) -> Iterator[str]:
    yield f"## envforge verify: {outcome(report, strict=strict)}"
    yield ""
    yield f"{headline(report, strict=strict)}: {counts(report)}."
    findings = worst_first(report.findings)
    for finding in findings:
        if finding.verdict in _OPEN:
            yield ""
            yield from _whole(finding)
    for verdict in ORDER:
        chosen = [finding for finding in findings if finding.verdict is verdict]
        if chosen and verdict not in _OPEN:
            yield from _table(f"{len(chosen)} {COUNTED[verdict]}", chosen)
    for section in facts(report.record):
        yield from ("", f"<details><summary>{escape(section.title)}</summary>", "", "| | |", "|---|---|")
        yield from (f"| {escape(label)} | {escape(value)} |" for label, value in section.rows)
        yield from ("", "</details>")


def _whole(finding: Finding) -> Iterator[str]:
    subject = f" ({escape(finding.subject)})" if finding.subject else ""
    yield f"### {finding.verdict.name}: `{finding.check}`{subject}"
    yield ""
    source = f" (read from {escape(finding.source)})" if finding.source else ""
    yield f"- observed: {escape(finding.observed)}{source}"
    if finding.wanted:
        yield f"- expected: {escape(finding.wanted)}"
    if finding.why:
        yield f"- why: {escape(finding.why)}"
    if finding.command:
        command = printable(finding.command)
        fence = "`" * (max((len(run) for run in re.findall("`+", command)), default=2) + 1)
        fence = fence if len(fence) >= 3 else "```"
        yield from ("", f"{fence}sh", command, fence)


def _table(title: str, findings: list[Finding]) -> Iterator[str]:
    yield from ("", f"<details><summary>{title}</summary>", "", "| check | | observed |", "|---|---|---|")
    for finding in findings:
        yield f"| `{finding.check}` | {escape(finding.subject)} | {escape(finding.observed)} |"
    yield from ("", "</details>")


def escape(text: str) -> str:
    """Escape a string so that Markdown shows it as is: no markup, HTML, table cell, or mention of a user."""
    shown = printable(text)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # the zero-width space after @ prevents a notification
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", shown).replace("@", "@\u200b")
