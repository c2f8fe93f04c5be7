"""Order verdicts, count findings, write the headline, and escape strings, for all reports."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from envforge.verify.values import QUESTIONS, Finding, Report, Verdict

# the order in which findings are shown
ORDER = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.INFO, Verdict.PASS, Verdict.SKIP)
COUNTED = {
    Verdict.FAIL: "failed",
    Verdict.UNKNOWN: "unknown",
    Verdict.WARN: "warned",
    Verdict.INFO: "info",
    Verdict.SKIP: "skipped",
    Verdict.PASS: "passed",
}
_LEFT_OUT = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    """Escape control characters, which a terminal or a page would interpret; line breaks become spaces."""
    spaced = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(_visible(letter) for letter in spaced).strip()


def _visible(letter: str) -> str:
    if unicodedata.category(letter) not in _LEFT_OUT:
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort the findings that fail the run first; within a verdict, keep the order of the checks."""
    return tuple(sorted(findings, key=lambda finding: (not finding.fails, ORDER.index(finding.verdict))))


def outcome(report: Report, *, strict: bool) -> str:
    """Return ``PASS``, ``FAIL``, or ``WARN`` if nothing fails but something warns."""
    if not report.passed(strict=strict):
        return "FAIL"
    return "WARN" if report.counts[Verdict.WARN] else "PASS"


def counts(report: Report) -> str:
    """Return the counts that are not zero, such as ``2 failed, 1 warned, 40 passed``."""
    parts = [f"{report.counts[verdict]} {COUNTED[verdict]}" for verdict in ORDER if report.counts[verdict]]
    return ", ".join(parts) or "nothing was checked"


def headline(report: Report, *, strict: bool) -> str:
    """Return the result in one sentence, which names the questions that it is about."""
    word = outcome(report, strict=strict)
    if report.record.asked.machine:
        return f"The lockfile {'does not fit' if word == 'FAIL' else 'fits'} {report.record.asked.machine}"
    failing = {
        finding.question for finding in report.findings if finding.fails or (strict and finding.verdict is Verdict.WARN)
    }
    observed = {item.what for item in report.record.observed}
    subject = _listed([name for name in QUESTIONS if name in (failing or observed)])
    if not subject:
        return "Nothing could be observed"
    if word == "FAIL":
        return f"{subject} checks failed"
    return f"{subject} checks passed" + (" with warnings" if word == "WARN" else "")


def _listed(words: list[str]) -> str:
    """Return ``Machine``, ``Machine and environment``, or ``Machine, environment, and training``."""
    comma = "," if len(words) > 2 else ""
    text = f"{comma} and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return text[:1].upper() + text[1:]


def strict_words(report: Report, *, strict: bool) -> str:
    """Return the reason why a run without a failure fails."""
    if strict and report.passed() and not report.passed(strict=True):
        return "--strict: warnings fail the run"
    return ""
