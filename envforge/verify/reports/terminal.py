"""Render reports, comparisons, and the list of checks for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from envforge.verify.reports.presentation import PROBLEMS, Presentation, printable
from envforge.verify.values import QUESTIONS, Check, Finding, Verdict

if TYPE_CHECKING:
    from rich.text import Text

    from envforge.verify.reports.compare import Comparison

NARROW, WIDE = 60, 110
_LABEL = 12  # the width of labels
_NAMED = 3  # more skipped checks are counted, not named
_STYLES = {"FAIL": "bold red", "UNKNOWN": "bold magenta", "WARN": "bold yellow", "INFO": "cyan", "PASS": "green"}


def report_lines(shown: Presentation, *, width: int, verbose: bool = False) -> Iterator[Text]:
    """Yield the lines of the report; ``verbose`` shows every finding as fully as a problem."""
    width = max(NARROW, min(width, WIDE))  # wider paragraphs are difficult to read
    yield _verdict(shown.outcome, shown.headline)
    yield from _wrapped(shown.summary, width, "      ")
    yield from _wrapped(shown.remark, width, "      ")
    for finding in shown.worst_first if verbose else shown.of(*PROBLEMS):
        yield _text("")
        yield from _finding(finding, width)
    if not verbose:
        yield from _facts(shown.of(Verdict.INFO), width)
        yield from _folded(shown, width)
    yield _text("")
    for section in shown.sections:
        for label, value in section.short:
            yield from _wrapped(value, width, f"{label:<{_LABEL}}", " " * _LABEL)


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    required = "(required, so the run fails)" if finding.verdict is Verdict.UNKNOWN and finding.fails else ""
    yield _verdict(finding.verdict.name, "  ".join(filter(None, (finding.check, finding.subject))), required)
    source = f" (read from {finding.source})" if finding.source else ""
    why = finding.why if finding.verdict in PROBLEMS else ""
    for label, value in (("observed", finding.observed + source), ("expected", finding.wanted), ("why", why)):
        yield from _wrapped(value, width, f"  {label}".ljust(_LABEL), " " * _LABEL)
    if finding.command:  # on one line, so that it can be pasted
        yield _text("  run".ljust(_LABEL) + finding.command, "bold")


def _facts(findings: Iterable[Finding], width: int) -> Iterator[Text]:
    for position, finding in enumerate(findings):
        if position == 0:
            yield _text("")
        subject = f" ({finding.subject})" if finding.subject else ""
        yield from _wrapped(f"{finding.check}{subject}: {finding.observed}", width, "INFO  ", "      ")


def _folded(shown: Presentation, width: int) -> Iterator[Text]:
    """Yield the number of passed checks by question, and skipped checks by reason."""
    # a machine without a GPU skips dozens of checks for one reason
    skipped: dict[tuple[str, str], list[str]] = {}
    for finding in shown.of(Verdict.SKIP):
        skipped.setdefault((finding.observed, finding.command), []).append(finding.check)
    passed = shown.of(Verdict.PASS)
    if passed or skipped:
        yield _text("")
    counts = Counter(finding.question for finding in passed)
    for question, count in sorted(counts.items(), key=lambda item: QUESTIONS.index(item[0])):
        yield _verdict("PASS", f"{question}: {count} finding{'s' * (count != 1)}")
    for (reason, command), checks in skipped.items():
        names = dict.fromkeys(checks)
        what = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} checks"
        yield from _wrapped(f"{what}: {reason}", width, "SKIP  ", "      ")
        if command:
            yield _text(f"      run  {command}", "bold")


def check_lines(checks: Iterable[Check], width: int) -> Iterator[Text]:
    """Yield each check with its id, group, severity, cost, and title, by question."""
    width = max(NARROW, min(width, WIDE))
    for question, listed in groupby(checks, lambda check: check.question):
        command = {"environment": "env", "training": "train"}.get(question, question)
        yield _text("")
        yield _text(f"{question} (envforge verify {command})", "bold")
        for check in listed:
            required = ", required" * check.required
            yield _text(f"  {check.id}  [{check.group}, {check.severity.value}, {check.cost}{required}]")
            yield from _wrapped(printable(check.title), width, "      ")


def comparison_lines(comparison: Comparison, width: int, *, verbose: bool) -> Iterator[Text]:
    """Yield each difference as a block, with a line for each value and its machines."""
    yield from _wrapped(comparison.headline, width)
    for group, rows in groupby(comparison.rows if verbose else comparison.different, lambda row: row.group):
        yield _text("")
        yield _text(group)
        for row in rows:
            yield _text(f"  {row.name}")
            for each in comparison.grouped(row):
                odd = "  <- different from the majority" if each.is_odd else ""
                yield from _wrapped(f"{each.machines}: {each.value}{odd}", width, "    ", "      ")


def _verdict(word: str, *rest: str) -> Text:
    text = _text("").append(f"{word:<4}", _STYLES.get(word))
    return text.append("  " + " ".join(filter(None, rest)))


def _wrapped(text: str, width: int, first: str = "", others: str | None = None) -> Iterator[Text]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_on_hyphens=False,
        break_long_words=False,  # paths and URLs stay in one piece, to be copied
    )
    yield from map(_text, lines if text else ())


def _text(line: str, style: str = "") -> Text:
    from rich.text import Text  # noqa: PLC0415 - slow to import, and only terminal output needs it

    return Text(line, style=style)
