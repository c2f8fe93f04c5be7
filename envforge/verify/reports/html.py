"""Render a report as one HTML page without network access or other files; every string in it is escaped.

The content security policy of the page blocks every request, and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from envforge.base.data_files import data_folder
from envforge.verify.reports.charts import BarChart, charts
from envforge.verify.reports.facts import COUNTED, ORDER, facts, headline, outcome, printable, strict_words, worst_first
from envforge.verify.values import QUESTIONS, Report

if TYPE_CHECKING:
    from markupsafe import Markup

FOLDER = "report"


def render_html(report: Report, *, strict: bool = False) -> str:
    """Return the page of one report."""
    present = {finding.question for finding in report.findings}
    return page(
        "verify.html.jinja",
        outcome=outcome(report, strict=strict),
        headline=headline(report, strict=strict),
        strict_words=strict_words(report, strict=strict),
        record=report.record,
        findings=worst_first(report.findings),
        counts=[(verdict.value, report.counts[verdict], COUNTED[verdict]) for verdict in ORDER],
        questions=[question for question in QUESTIONS if question in present],
        charts=[("bars" if isinstance(chart, BarChart) else "curves", chart) for chart in charts(report.record)],
        sections=facts(report.record),
    )


def page(template: str, **values: Any) -> str:
    """Render a template with the inline style and script, which the policy allows by their hashes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - heavy, and only pages need it
    from markupsafe import Markup  # noqa: PLC0415 - as above

    folder = data_folder() / FOLDER
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["prose"] = _prose
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        policy=policy,
        **values,
    )


def _prose(text: str) -> Markup:
    """Escape a string, and render parts in backticks as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - heavy, and only pages need it

    parts = printable(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its pair
        return escape(printable(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 2 else escape(part) for position, part in enumerate(parts)
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
