"""Test the HTML page without a browser: complete, self-contained, escaped, and without requests."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest

from envforge.verify.reports import charts, comparison_html, report_html
from envforge.verify.reports.compare import compare
from envforge.verify.reports.presentation import present
from envforge.verify.values import Report, Verdict
from tests.verify.made_up import EVIL, every_verdict, finding, report
from tests.verify.trained import trained

VOID = {"meta", "link", "input", "br", "img", "hr", "rect", "path"}


class Page(HTMLParser):
    """The elements of a page and what they hold; ``open`` is not empty where a tag was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def of_two(one: Report) -> str:
    return comparison_html(compare({EVIL: one, "b": every_verdict()}, tolerance=0.1))


def html(one: Report) -> str:
    return report_html(present(one))


PAGES = [html(every_verdict()), html(trained()), of_two(report(finding("x", Verdict.FAIL)))]


@pytest.mark.parametrize("text", PAGES)
def test_every_tag_is_closed(text: str) -> None:
    assert Page(text).open == []


@pytest.mark.parametrize("text", PAGES)
def test_a_page_names_no_other_file_and_no_address(text: str) -> None:
    page = Page(text)
    asks = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "action")
    ]
    assert [value for value in asks if value is None or not value.startswith(("#", "data:"))] == []
    assert re.search(r"url\(|@import|https?://", "".join(page.texts["style"])) is None


@pytest.mark.parametrize("text", PAGES)
def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(text: str) -> None:
    page = Page(text)
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    wanted = {
        name: base64.b64encode(hashlib.sha256("".join(page.texts[name]).encode()).digest()).decode()
        for name in ("style", "script")
    }
    assert policy == (
        "default-src 'none'; img-src data:; "
        f"style-src 'sha256-{wanted['style']}'; script-src 'sha256-{wanted['script']}'"
    )


@pytest.mark.parametrize("text", PAGES)
def test_no_text_becomes_markup(text: str) -> None:
    page = Page(text)
    assert "img" not in {tag for tag, _ in page.tags}
    assert [
        name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"
    ] == []
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_backticks_are_code_and_half_a_pair_is_not() -> None:
    text = html(report(finding("x", Verdict.FAIL, observed="`a<b` and `c`", why="a ` alone <i>")))
    assert "<code>a&lt;b</code> and <code>c</code>" in text
    assert "a ` alone &lt;i&gt;" in text


def test_the_charts_are_there_with_their_words_and_numbers() -> None:
    text = html(trained())
    assert text.count('<figure class="chart') == 4
    labels = [a["aria-label"] or "" for tag, a in Page(text).tags if a.get("role") == "img"]
    assert labels == [
        (
            "A step in AMP fp16 takes 40 ms (the median of 13); that is 2.50 times the speed of fp32 (ieee) and "
            "1.50 times the speed of fp32 (tf32)."
        ),
        "AMP fp16 allocates at most 4.00 GiB, 50% less than fp32 (ieee) and 50% less than fp32 (tf32).",
        "AMP fp16: from 2 to 0.5, 1 not finite; fp32 (ieee): from 2 to 0.5; fp32 (tf32): no finite loss.",
        ("true labels: from 2.3 to 0.2; shuffled labels (control): from 2.3 to 2.3. 2 of 4 updates were skipped."),
    ]


def test_a_report_without_a_training_has_no_charts() -> None:
    assert 'id="charts"' not in html(every_verdict())


def test_bars_start_at_zero_and_the_longest_fills_the_chart() -> None:
    bars = tuple(charts.Bar(label="x", value=value, shown="") for value in (2.0, 8.0, 0.0, math.nan, math.inf))
    assert charts.BarChart(title="", said="", bars=bars).widths == (25.0, 100.0, 0.0, 0.0, 0.0)


def test_a_curve_has_a_gap_where_the_loss_was_not_finite() -> None:
    chart = charts.CurveChart(title="", said="", curves=(charts.Curve(label="", values=(4.0, math.nan, 2.0, 0.0)),))
    assert chart.paths() == ("M0.00 0.00M66.67 50.00L100.00 100.00",)


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    chart = charts.CurveChart(
        title="", said="", curves=(charts.Curve(label="", values=tuple(float(i) for i in range(5000))),)
    )
    (path,) = chart.paths()
    assert path.count("L") == charts.POINTS - 1
    assert (path.startswith("M0.00 100.00"), path.endswith("L100.00 0.00")) == (True, True)
