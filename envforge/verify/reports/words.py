"""The words that every report shares: verdicts in their order, counts in a sentence, texts that are safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from envforge.verify.values import QUESTIONS, Finding, Report, Verdict

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
    """The answer in one sentence, about the questions that it is true of."""
    word = outcome(report, strict=strict)
    failing = {
        finding.question for finding in report.findings if finding.fails or (strict and finding.verdict is Verdict.WARN)
    }
    observed = {item.what for item in report.record.observed}
    subject = _listed([QUESTION_WORDS[name] for name in QUESTIONS if name in (failing or observed)])
    are = "are" if " and " in subject else "is"
    if not subject:
        return "Nothing could be looked at"
    if word == "FAIL":
        return f"{subject} {are} not as {'they' if are == 'are' else 'it'} should be"
    warned = ", with warnings" if word == "WARN" else ""
    return f"{subject} {are} as {'they' if are == 'are' else 'it'} should be{warned}"


def _listed(words: list[str]) -> str:
    """``The machine, the environment and the training``."""
    text = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return text[:1].upper() + text[1:]


def strict_words(report: Report, *, strict: bool) -> str:
    """Why a run without a failure fails."""
    if strict and report.passed() and not report.passed(strict=True):
        return "--strict: a warning fails the run"
    return ""
