"""Test the terminal, Markdown, and JUnit output of a report."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from junitparser import Failure, JUnitXml, Skipped

from envforge.base.redact import change_texts
from envforge.verify import reports
from envforge.verify.checks import all_checks, judge
from envforge.verify.reports.compare import compare
from envforge.verify.reports.presentation import present, printable
from envforge.verify.values import Report, Verdict
from tests.verify.made_up import EVIL, every_verdict, finding, report
from tests.verify.trained import trained

GOLDEN = Path(__file__).with_name("golden")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def words(one: Report, *, width: int = 80, strict: bool = False, verbose: bool = False) -> str:
    lines = reports.report_lines(present(one, strict=strict), width=width, verbose=verbose)
    return "".join(f"{line.plain}\n" for line in lines)


def markdown(one: Report) -> str:
    return reports.report_markdown(present(one))


def junit(one: Report, *, strict: bool = False) -> str:
    return reports.report_junit(present(one, strict=strict))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("terminal.txt", words(every_verdict())),
        ("terminal-verbose.txt", words(every_verdict(), verbose=True)),
        ("report.md", markdown(every_verdict())),
    ],
)
def test_what_people_read(name: str, text: str) -> None:
    assert (GOLDEN / name).read_text(encoding="utf-8") == text


def test_the_terminal_keeps_to_80_columns_but_for_commands() -> None:
    lines = words(every_verdict(), verbose=True).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("  run ")] == []


def test_a_command_is_never_broken() -> None:
    command = "envforge " + "x" * 200
    assert f"  run       {command}\n" in words(report(finding("x", Verdict.FAIL, command=command)))


def test_failures_stand_before_all_else() -> None:
    shown = re.findall(r"^(FAIL|UNKNOWN|WARN|INFO|PASS|SKIP)\b", words(every_verdict()), re.MULTILINE)
    assert shown == ["FAIL", "FAIL", "UNKNOWN", "WARN", "WARN", "INFO", "PASS", "SKIP"]


def planted() -> dict[str, str]:
    """Every report of a record with control characters and markup in each of its strings."""
    evil = change_texts(trained().record, lambda text: text + EVIL)
    one = judge(evil, all_checks())
    shown, compared = present(one), compare({EVIL: one, "b": every_verdict()}, tolerance=0.1)
    lines = (
        *reports.report_lines(shown, width=80, verbose=True),
        *reports.comparison_lines(compared, 80, verbose=True),
    )
    return {
        "terminal": "\n".join(line.plain for line in lines),
        "markdown": reports.report_markdown(shown) + reports.comparison_markdown(compared),
        "html": reports.report_html(shown) + reports.comparison_html(compared),
        "junit": reports.report_junit(shown),
    }


def test_no_control_character_of_a_record_reaches_a_report() -> None:
    for name, text in planted().items():
        assert (name, CONTROL.search(text)) == (name, None)
        assert "\\x1b" in text
        assert name == "terminal" or "<img" not in re.sub(
            r"^(```+)sh\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL
        )


def test_markdown_shows_markup_as_text() -> None:
    outside_commands = re.sub(r"^(```+)sh\n.*?\n\1$", "", markdown(every_verdict()), flags=re.MULTILINE | re.DOTALL)
    assert "<img" not in outside_commands
    assert "@you" not in outside_commands
    assert "&lt;img" in outside_commands
    assert "\\|\\`\\*\\*@" in outside_commands


def test_a_command_cannot_end_its_own_fence() -> None:
    text = markdown(report(finding("x", Verdict.FAIL, command="echo ``` `whoami`")))
    assert "\n````sh\necho ``` `whoami`\n````\n" in text


def test_junit_has_a_case_for_each_finding_and_fails_what_fails(tmp_path: Path) -> None:
    (tmp_path / "j.xml").write_text(junit(every_verdict()))
    suites = JUnitXml.fromfile(str(tmp_path / "j.xml"))
    cases = {case.name.partition(" ")[0]: case for suite in suites for case in suite}
    assert list(cases) == ["well", "driver-too-old", "power-cap", "kernel-log", "nvlink", "gpu-name", "speed"]
    failed = [name for name, case in cases.items() if any(isinstance(each, Failure) for each in case.result)]
    skipped = [name for name, case in cases.items() if any(isinstance(each, Skipped) for each in case.result)]
    assert (failed, skipped) == (["driver-too-old", "kernel-log"], ["nvlink"])
    assert (suites.tests, suites.failures, suites.skipped) == (7, 2, 1)


def test_junit_fails_warnings_where_they_fail_the_run() -> None:
    root = ET.fromstring(junit(every_verdict(), strict=True))
    assert {case.get("name", "").split()[0] for case in root.iter("testcase") if case.find("failure") is not None} == {
        "driver-too-old",
        "kernel-log",
        "power-cap",
        "gpu-name",
    }


def test_junit_is_xml_whatever_the_names_hold() -> None:
    ET.fromstring(junit(report(finding("x", Verdict.FAIL, observed=EVIL, subject=EVIL))))


@pytest.mark.parametrize(
    ("one", "strict", "outcome"),
    [
        (report(finding("x", Verdict.PASS)), True, "pass"),
        (report(finding("x", Verdict.WARN)), False, "warn"),
        (report(finding("x", Verdict.WARN)), True, "fail"),
        (report(finding("x", Verdict.FAIL)), False, "fail"),
    ],
)
def test_the_outcome_is_one_word(one: Report, strict: bool, outcome: str) -> None:
    assert reports.report_to_json(one, strict=strict)["outcome"] == outcome
    assert words(one, strict=strict).startswith(outcome.upper())


def test_strictness_says_that_it_failed_the_run() -> None:
    assert "--strict: warnings fail the run" in words(report(finding("x", Verdict.WARN)), strict=True)


def test_the_headline_names_what_was_looked_at() -> None:
    assert present(report(finding("x", Verdict.PASS))).headline == "Machine checks passed"
    assert present(report(observed=())).headline == "Nothing could be observed"


def test_printable_keeps_words_and_shows_what_a_terminal_would_obey() -> None:
    assert printable("Tesla T4 — é 日本\n\x1b[2J\u202e") == "Tesla T4 — é 日本 \\x1b[2J\\u202e"
