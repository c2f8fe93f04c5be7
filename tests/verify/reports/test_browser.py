"""Test the HTML page in a browser: filters, keyboard, narrow screens, printing, no errors, and no requests.

Requires Chromium (Debian's package ``chromium``).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from envforge.verify.reports import comparison_html, report_html
from envforge.verify.reports.compare import compare
from envforge.verify.reports.presentation import present
from envforge.verify.values import Report, Verdict
from tests.verify.made_up import every_verdict, finding
from tests.verify.trained import trained

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def whole() -> Report:
    """Findings of every verdict and of two questions, with charts."""
    one = trained()
    more = (*every_verdict().findings, *one.findings, finding("well-too", Verdict.PASS, question="environment"))
    return Report(record=one.record, findings=more)


@dataclass
class Opened:
    """A page that is open, what its console said and what it asked for."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """The checks that can be seen, in their order."""
        return [each.inner_text() for each in self.page.locator(".finding:visible .name code").all()]

    def toggle(self, value: str) -> None:
        self.page.locator(f'button.toggle[value="{value}"]').click()

    def background(self) -> str:
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page of ``whole``, or the text that the test's parameter is."""
    path = tmp_path / "page.html"
    path.write_text(getattr(request, "param", None) or report_html(present(whole())), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.console.append(message.text))
    found.page.on("pageerror", lambda error: found.console.append(str(error)))
    found.page.on("request", lambda asked: found.requests.append(asked.url))
    found.page.goto(path.as_uri())
    yield found
    context.close()


def test_what_is_well_stays_out_of_the_way_until_it_is_asked_for(opened: Opened) -> None:
    assert opened.shown() == ["driver-too-old", "kernel-log", "power-cap", "gpu-name", "speed", "amp-speed"]
    assert opened.page.locator("#shown").inner_text() == "6 of 9 shown"
    opened.page.get_by_role("button", name="Show all").click()
    opened.page.wait_for_function("document.getElementById('shown').textContent === '9 of 9 shown'")
    assert opened.shown()[-3:] == ["well", "well-too", "nvlink"]


def test_verdicts_filter(opened: Opened) -> None:
    for value in ("unknown", "warn", "info"):
        opened.toggle(value)
    assert opened.shown() == ["driver-too-old"]
    opened.toggle("pass")
    assert opened.shown() == ["driver-too-old", "well", "well-too"]


def test_questions_filter(opened: Opened) -> None:
    opened.toggle("machine")
    assert opened.shown() == ["speed", "amp-speed"]
    opened.toggle("pass")
    assert opened.shown() == ["speed", "amp-speed", "well-too"]


def test_text_filters_by_every_word_also_within_what_is_folded(opened: Opened) -> None:
    opened.page.get_by_label("Search").fill("POWER observed 300")
    assert opened.shown() == ["power-cap"]
    opened.page.get_by_label("Search").fill("nothing like this")
    assert opened.shown() == []
    assert opened.page.get_by_text("No finding matches these filters.").is_visible()


def test_the_keyboard_reaches_the_search_and_leaves_it(opened: Opened) -> None:
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("driver")
    assert opened.shown() == ["driver-too-old"]
    opened.page.keyboard.press("Escape")
    assert len(opened.shown()) == 6


def test_the_keyboard_alone_filters_folds_and_opens(opened: Opened) -> None:
    keyboard = opened.page.keyboard
    keyboard.press("/")
    keyboard.press("Tab")
    keyboard.press("Space")
    assert "driver-too-old" not in opened.shown()
    keyboard.press("Space")
    opened.page.get_by_role("button", name="Fold all").focus()
    keyboard.press("Enter")
    first = opened.page.locator(".finding details").first
    assert first.get_attribute("open") is None
    keyboard.press("Tab")
    keyboard.press("Enter")
    assert first.get_attribute("open") is not None


def test_tab_goes_to_the_findings_first(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the findings"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"


def test_a_command_is_copied(opened: Opened) -> None:
    opened.page.locator(".finding.fail .copy").click()
    assert str(opened.page.evaluate("getSelection().toString()")).strip() == "envforge lock --cuda 11.3"


COMPARED = comparison_html(compare({str(n): whole() if n else every_verdict() for n in range(3)}, tolerance=0.1))


@pytest.mark.parametrize("opened", [None, COMPARED], indirect=True, ids=["verify", "compare"])
def test_the_console_is_silent_and_nobody_is_asked(opened: Opened) -> None:
    assert opened.console == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_the_policy_stops_what_would_ask(opened: Opened) -> None:
    script = "fetch('http://127.0.0.1:9/').then(() => 'asked', (error) => error.name)"
    assert opened.page.evaluate(script) == "TypeError"
    assert any("Content Security Policy" in line for line in opened.console)


@pytest.mark.parametrize("opened", [None, COMPARED], indirect=True, ids=["verify", "compare"])
def test_a_phone_need_not_scroll_sideways(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 360, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360


def test_dark_and_light_are_followed_and_both_can_be_read(opened: Opened) -> None:
    backgrounds = set()
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        backgrounds.add(opened.background())
        assert {name: ratio for name, ratio in opened.page.evaluate(CONTRAST).items() if ratio < 4.5} == {}, scheme
    assert len(backgrounds) == 2


def test_in_print_every_finding_is_there_and_open_whatever_is_filtered(opened: Opened) -> None:
    opened.page.get_by_label("Search").fill("driver")
    assert opened.shown() == ["driver-too-old"]
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".finding dl:visible").count() == 9
    assert opened.page.locator(".filters, nav, .copy").locator("visible=true").count() == 0
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.page.emulate_media(media="screen")
    assert opened.shown() == ["driver-too-old"]
    opened.page.get_by_label("Search").fill("")
    assert len(opened.shown()) == 6
    assert opened.page.locator(".finding dl:visible").count() == 4


def test_the_browser_itself_prints_all_of_it(opened: Opened) -> None:
    """Chromium fires ``beforeprint`` by itself: what is filtered away on the screen is on paper all the same."""
    whole_pages = pages_of(opened.page.pdf(format="A4"))
    opened.page.get_by_label("Search").fill("driver")
    assert pages_of(opened.page.pdf(format="A4")) == whole_pages > 2


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


A4_PX = 794 - 106  # at 96 dots an inch, without the margins of 14 mm


@pytest.mark.parametrize("opened", [None, COMPARED], indirect=True, ids=["verify", "compare"])
def test_on_paper_nothing_is_cut_off_at_the_side(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": A4_PX, "height": 900})
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == A4_PX
    assert opened.page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("opened", [COMPARED], indirect=True)
def test_in_print_what_is_the_same_is_open_too(opened: Opened) -> None:
    opened.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = false")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0


def test_on_a_phone_a_command_is_wrapped_and_not_cut_off(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 360, "height": 800})
    assert opened.page.locator(".command pre").count() == 3
    assert opened.page.evaluate(CUT_OFF) == []


def test_without_a_script_everything_can_be_read(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(report_html(present(whole())), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".finding:visible").count() == 9
    assert page.locator(".filters:visible, .copy:visible").count() == 0
    context.close()


# Elements whose content is wider than they are, and so is cut off or must be scrolled.
CUT_OFF = """() => [...document.querySelectorAll("body *")]
  .filter((node) => node.checkVisibility() && !(node instanceof SVGElement) && !node.closest(".jump, .toggle"))
  .filter((node) => node.clientWidth > 0 && node.scrollWidth > node.clientWidth + 1)
  .map((node) => `${node.tagName.toLowerCase()}.${node.className}: ${node.scrollWidth} in ${node.clientWidth}`)"""

# The contrast of each kind of text with what lies behind it, by WCAG 2 (1.4.3 asks for 4.5).
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest(".jump")) continue;
    const a = light(parse(getComputedStyle(node).color)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${node.tagName.toLowerCase()}.${node.className.baseVal ?? node.className}`;
    found[name] = Math.min(found[name] ?? 99, Math.round(100 * ratio) / 100);
  }
  return found;
}"""
