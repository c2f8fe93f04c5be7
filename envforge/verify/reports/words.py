"""The words that every report shares: verdicts in their order, counts in a sentence, texts that are safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from envforge.verify.values import Finding, Report, Verdict

# Worst first: the order in which findings are shown.
ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.INFO, Verdict.SKIP, Verdict.PASS)
COUNTED = {
    Verdict.FAIL: "failed",
    Verdict.UNKNOWN: "unknown",
    Verdict.WARN: "warned",
    Verdict.INFO: "to know",
    Verdict.SKIP: "skipped",
    Verdict.PASS: "passed",
}
QUESTION_WORDS = {"machine": "the machine", "environment": "the environment", "training": "the training"}
_LEFT_OUT = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    """A text without control characters, which a terminal or a page would obey; line breaks become spaces."""
    spaced = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(_visible(letter) for letter in spaced).strip()


def _visible(letter: str) -> str:
    if unicodedata.category(letter) not in _LEFT_OUT:
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that fail the run first; within a verdict the order of the checks stays."""
    return tuple(sorted(findings, key=lambda finding: (not finding.fails, ORDER.index(finding.verdict))))


def outcome(report: Report, *, strict: bool) -> str:
    """The one word of the run: ``PASS``, ``FAIL``, or ``WARN`` where nothing fails and something warns."""
    if not report.passed(strict=strict):
        return "FAIL"
    return "WARN" if report.counts[Verdict.WARN] else "PASS"


def counts(report: Report) -> str:
    """``2 failed, 1 warned, 40 passed``; what there is none of is left out."""
    parts = [f"{report.counts[verdict]} {COUNTED[verdict]}" for verdict in ORDER if report.counts[verdict]]
    return ", ".join(parts) or "nothing was checked"


def headline(report: Report, *, strict: bool) -> str:
    """The answer in one sentence."""
    word = outcome(report, strict=strict)
    asked = [QUESTION_WORDS[item.what] for item in report.record.observed]
    what = " and ".join([", ".join(asked[:-1]), asked[-1]] if len(asked) > 1 else asked) or "nothing"
    said = {"PASS": "is as it should be", "WARN": "works, with warnings", "FAIL": "is not as it should be"}[word]
    if len(asked) > 1:
        said = {"PASS": "are as they should be", "WARN": "work, with warnings", "FAIL": "are not as they should be"}[
            word
        ]
    if not asked:
        return "Nothing could be looked at"
    return f"{what[0].upper()}{what[1:]} {said}"


def strict_words(report: Report, *, strict: bool) -> str:
    """Why a run without a failure fails."""
    if strict and report.passed() and not report.passed(strict=True):
        return "--strict: a warning fails the run"
    return ""
