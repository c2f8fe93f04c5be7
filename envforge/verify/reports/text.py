"""Render a report for the terminal and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from envforge.verify.reports.facts import (
    COUNTED,
    ORDER,
    counts,
    facts,
    headline,
    outcome,
    printable,
    strict_words,
    worst_first,
)
from envforge.verify.values import QUESTIONS, Check, Finding, Report, Verdict

if TYPE_CHECKING:
    from rich.text import Text

NARROW, WIDE = 60, 110
_LABEL = 10
_NAMED = 3
_STYLES = {"fail": "bold red", "unknown": "bold magenta", "warn": "bold yellow", "info": "cyan", "pass": "green"}
_SHOWN = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)


def render_terminal(report: Report, *, width: int, strict: bool = False, verbose: bool = False) -> Iterator[Text]:
    """Yield the lines of the report; ``verbose`` shows every finding as fully as a failure."""
    width = max(NARROW, min(width, WIDE))
    yield from _head(report, width, strict=strict)
    findings = worst_first(report.findings)
    for finding in findings:
        if verbose or finding.verdict in _SHOWN:
            yield _text("")
            yield from _whole(finding, width)
    if not verbose:
        yield from _one_line_each(findings, width)
        yield from _folded(findings, width)
    yield _text("")
    yield from _facts(report, width)


def _head(report: Report, width: int, *, strict: bool) -> Iterator[Text]:
    word = outcome(report, strict=strict)
    yield _verdict(word.lower(), word, f"  {headline(report, strict=strict)}")
    yield from _wrapped(counts(report), width, "      ")
    if reason := strict_words(report, strict=strict):
        yield from _wrapped(reason, width, "      ")


def _whole(finding: Finding, width: int) -> Iterator[Text]:
    subject = f"  {printable(finding.subject)}" if finding.subject else ""
    required = " (required, so the run fails)" if finding.verdict is Verdict.UNKNOWN and finding.fails else ""
    yield _verdict(finding.verdict.value, finding.verdict.name, f"  {finding.check}{subject}{required}")
    source = f" (read from {finding.source})" if finding.source else ""
    yield from _row("observed", finding.observed + source, width)
    if finding.wanted:
        yield from _row("expected", finding.wanted, width)
    if finding.verdict in _SHOWN:
        yield from _row("why", finding.why, width)
    if finding.command:
        yield _command(finding.command)


def _row(label: str, value: str, width: int) -> Iterator[Text]:
    yield from _wrapped(printable(value), width, f"  {label:<{_LABEL}}", " " * (_LABEL + 2))


def _command(command: str) -> Text:
    """Return a command on one line, so that it can be pasted."""
    return _text(f"  {'run':<{_LABEL}}{printable(command)}", "bold")


def _one_line_each(findings: Iterable[Finding], width: int) -> Iterator[Text]:
    told = [finding for finding in findings if finding.verdict is Verdict.INFO]
    if told:
        yield _text("")
    for finding in told:
        subject = f" ({finding.subject})" if finding.subject else ""
        line = printable(f"{finding.check}{subject}: {finding.observed}")
        yield from _wrapped(line, width, "INFO  ", "      ")


def _folded(findings: tuple[Finding, ...], width: int) -> Iterator[Text]:
    """Yield the number of passed checks by question, and skipped checks by reason."""
    passed = Counter(finding.question for finding in findings if finding.verdict is Verdict.PASS)
    skipped: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.verdict is Verdict.SKIP:
            skipped.setdefault((finding.observed, finding.command), []).append(finding.check)
    if passed or skipped:
        yield _text("")
    for question in QUESTIONS:
        if passed[question]:
            yield _verdict("pass", "PASS", f"  {question}: {_times(passed[question])}")
    for (reason, command), checks in skipped.items():
        names = dict.fromkeys(checks)
        what = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} checks"
        yield from _wrapped(f"{what}: {printable(reason)}", width, "SKIP  ", "      ")
        if command:
            yield _text(f"      run  {printable(command)}", "bold")


def _times(count: int) -> str:
    return "1 finding" if count == 1 else f"{count} findings"


def _facts(report: Report, width: int) -> Iterator[Text]:
    for section in facts(report.record):
        for label, value in section.short:
            yield from _wrapped(printable(value), width, f"{label:<{_LABEL + 2}}", " " * (_LABEL + 2))


def render_list(checks: Iterable[Check], width: int) -> Iterator[Text]:
    """Yield each check with its id, group, severity, cost, and title, by question."""
    width = max(NARROW, min(width, WIDE))
    question = ""
    for check in checks:
        if check.question != question:
            question = check.question
            yield _text("")
            yield _text(f"{question} (envforge verify {_command_of(question)})", "bold")
        facts_of_it = f"{check.group}, {check.severity.value}, {check.cost}" + (", required" * check.required)
        yield _text(f"  {check.id}  [{facts_of_it}]")
        yield from _wrapped(printable(check.title), width, "      ")


def _command_of(question: str) -> str:
    return {"environment": "env", "training": "train"}.get(question, question)


def _verdict(style: str, word: str, rest: str) -> Text:
    text = _text("")
    text.append(f"{word:<4}" if word != "UNKNOWN" else "UNKNOWN", _STYLES.get(style, ""))
    text.append(rest)
    return text


def _wrapped(text: str, width: int, first: str, others: str | None = None) -> Iterator[Text]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_on_hyphens=False,
        break_long_words=False,
    )
    yield from (_text(line) for line in lines)


def _text(line: str, style: str = "") -> Text:
    from rich.text import Text  # noqa: PLC0415 - only terminal output needs rich

    return Text(line, style=style)


_OPEN = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)


def render_markdown(report: Report, *, strict: bool = False) -> str:
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
            yield from _markdown_whole(finding)
    for verdict in ORDER:
        chosen = [finding for finding in findings if finding.verdict is verdict]
        if chosen and verdict not in _OPEN:
            yield from _table(f"{len(chosen)} {COUNTED[verdict]}", chosen)
    for section in facts(report.record):
        yield from ("", f"<details><summary>{escape(section.title)}</summary>", "", "| | |", "|---|---|")
        yield from (f"| {escape(label)} | {escape(value)} |" for label, value in section.rows)
        yield from ("", "</details>")


def _markdown_whole(finding: Finding) -> Iterator[str]:
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
