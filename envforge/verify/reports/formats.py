"""Render reports and comparisons as JSON, and from the templates in ``data/report`` as HTML, Markdown, and JUnit XML.

A page uses no network and no other files. Its content security policy blocks every request, and every script but its
own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from envforge.base.data_files import data_folder
from envforge.base.envelope import Json
from envforge.verify.record import record_to_json
from envforge.verify.reports.presentation import PROBLEMS, Presentation, outcome
from envforge.verify.values import Check, Finding, Report, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from envforge.verify.reports.compare import Comparison


def report_to_json(report: Report, *, strict: bool = False) -> dict[str, Json]:
    """Return the result of ``verify --json``: verdict, counts, findings, and the record to judge again."""
    return {
        "outcome": outcome(report, strict=strict).lower(),
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


def comparison_to_json(comparison: Comparison) -> dict[str, Json]:
    """Return the result of ``compare --json``."""
    outliers: Json = [
        {"machine": name, "rows": [{"group": row.group, "name": row.name} for row in rows]}
        for name, rows in comparison.outliers
    ]
    result: dict[str, Json] = msgspec.to_builtins(comparison)
    return {**result, "outliers": outliers}


def report_html(shown: Presentation) -> str:
    """Return the page of one report."""
    return _page("verify.html.jinja", shown=shown)


def comparison_html(comparison: Comparison) -> str:
    """Return the page of a comparison: the differences as a table, everything else folded."""
    return _page("compare.html.jinja", comparison=comparison)


def report_markdown(shown: Presentation) -> str:
    """Return Markdown that GitHub, GitLab, and others render alike."""
    return _markdown().get_template("verify.md.jinja").render(shown=shown, problems=PROBLEMS)


def comparison_markdown(comparison: Comparison) -> str:
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
