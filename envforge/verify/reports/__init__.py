"""Render reports and comparisons: for a terminal, as JSON, and from templates as HTML, Markdown, and JUnit XML.

A page uses no network and no other files. Its content security policy blocks every request, and every script but its
own.
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from envforge.base.data_files import data_folder
from envforge.base.envelope import Json
from envforge.verify.record import record_to_json
from envforge.verify.reports.presentation import PROBLEMS, Presentation, printable
from envforge.verify.values import QUESTIONS, Check, Finding, Report, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from rich.text import Text

    from envforge.verify.reports.compare import FleetComparison

NARROW, WIDE = 60, 110
_LABEL = 12  # the width of labels
_NAMED = 3  # more skipped checks are counted, not named
_STYLES = {"FAIL": "bold red", "UNKNOWN": "bold magenta", "WARN": "bold yellow", "INFO": "cyan", "PASS": "green"}


def report_to_json(report: Report, *, strict: bool = False) -> dict[str, Json]:
    """Return the result of ``verify --json``: verdict, counts, findings, and the record to judge again."""
    return {
        "outcome": Presentation(report=report, strict=strict).outcome.lower(),
        "strict": strict,
        # zeros included, so that programs need no default
        "counts": {verdict.value: count for verdict, count in report.counts.items()},
        "findings": [msgspec.to_builtins(finding) for finding in report.findings],
        "record": record_to_json(report.record),
    }


def check_to_json(check: Check) -> dict[str, Json]:
    """Return one item of ``verify --list --json``."""
    names = ("id", "question", "group", "title", "why", "severity", "cost", "required", "row")
    return {name: msgspec.to_builtins(getattr(check, name)) for name in names}


def comparison_to_json(comparison: FleetComparison) -> dict[str, Json]:
    """Return the result of ``compare --json``."""
    outliers: Json = [
        {"machine": name, "rows": [{"group": row.group, "name": row.name} for row in rows]}
        for name, rows in comparison.outliers
    ]
    return {**msgspec.to_builtins(comparison), "outliers": outliers}


def report_html(shown: Presentation) -> str:
    """Return the page of one report."""
    return _page("verify.html.jinja", shown=shown)


def comparison_html(comparison: FleetComparison) -> str:
    """Return the page of a comparison: the differences as a table, everything else folded."""
    return _page("compare.html.jinja", comparison=comparison)


def report_markdown(shown: Presentation) -> str:
    """Return Markdown that GitHub, GitLab, and others render alike."""
    return _markdown().get_template("verify.md.jinja").render(shown=shown, problems=PROBLEMS)


def comparison_markdown(comparison: FleetComparison) -> str:
    """Return the differences as one table: a column for each machine, or for many machines a row for each value."""
    return _markdown().get_template("compare.md.jinja").render(comparison=comparison)


def report_junit(shown: Presentation) -> str:
    """Return the XML. Only findings that fail the run are failures; SKIP and UNKNOWN contain their reason."""
    environment = _environment(autoescape=True)  # XML needs the same escapes as HTML
    environment.filters["status"] = partial(_junit_status, shown)
    return environment.get_template("junit.xml.jinja").render(shown=shown)


def _junit_status(shown: Presentation, finding: Finding) -> str:
    if shown.fails(finding):
        return "failure"
    return "skipped" if finding.verdict in (Verdict.SKIP, Verdict.UNKNOWN) else "passed"


def _page(template: str, **values: Any) -> str:
    """Render a template with the inline style and script, which the policy allows by their hashes."""
    from markupsafe import Markup  # noqa: PLC0415 - slow to import, and only pages need it

    environment = _environment(autoescape=True)
    environment.filters["prose"] = _prose  # messages have code in backticks, as in Markdown
    folder = data_folder() / "report"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    # the page is opened from disk, where nothing else protects against a string that became a script
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    page = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - files of this package
    return environment.get_template(template).render(policy=policy, **page, **values)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _prose(text: str) -> Markup:
    """Escape a string, and render parts in backticks as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - slow to import, and only pages need it

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its pair
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 2 else escape(part) for position, part in enumerate(parts)
    )


def _markdown() -> Environment:
    environment = _environment(autoescape=False)
    # unlike a filter, it can't be forgotten in a template; `Markup` passes
    environment.finalize = lambda value: _escaped(value) if type(value) is str else value
    environment.filters["fence"] = _fence
    return environment


def _escaped(text: str) -> str:
    """Escape a string so that Markdown shows it as is: no markup, HTML, table cell, or mention of a user."""
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # the zero-width space after @ prevents a notification
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", shown).replace("@", "@\u200b")


def _fence(command: str) -> Markup:
    """Return a block of code; its fence is longer than any run of backticks in the command."""
    from markupsafe import Markup  # noqa: PLC0415 - slow to import, and only reports need it

    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", command)), 0)
    return Markup("{0}sh\n{1}\n{0}").format(Markup(fence), Markup(command))  # noqa: S704 - a fence needs no escapes


def _environment(*, autoescape: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - slow to import

    return Environment(
        loader=FileSystemLoader(data_folder() / "report"),
        autoescape=autoescape,  # noqa: S701 - Markdown has escapes of its own
        undefined=StrictUndefined,  # a misspelled name would leave a gap in the report
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


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


def comparison_lines(comparison: FleetComparison, width: int, *, verbose: bool) -> Iterator[Text]:
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
