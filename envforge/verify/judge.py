"""Judge: pure. Enters: a ``Record`` and the checks. Leaves: a ``Report``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.verify.record import Record
from envforge.verify.values import Check, Finding, Judgement, Report, Verdict


def judge(record: Record, checks: Iterable[Check]) -> Report:
    """What each check says of the record; a check that says nothing or breaks is UNKNOWN, never a pass."""
    return Report(record=record, findings=tuple(finding for check in checks for finding in _findings(check, record)))


def _findings(check: Check, record: Record) -> Iterator[Finding]:
    for judgement in _judgements(check, record):
        yield Finding(
            check=check.id,
            question=check.question,
            group=check.group,
            title=check.title,
            required=check.required,
            verdict=judgement.verdict,
            observed=judgement.observed,
            wanted=judgement.wanted,
            source=judgement.source,
            subject=judgement.subject,
            why=judgement.why or check.why,
            command=judgement.command,
        )


def _judgements(check: Check, record: Record) -> tuple[Judgement, ...]:
    try:
        judgements = tuple(check.judge(record))
    except Exception as error:  # noqa: BLE001 - a check may come from anywhere, and one that breaks must not hide the others
        observed = f"the check broke: {type(error).__name__}: {error}"
        return (Judgement(verdict=Verdict.UNKNOWN, observed=observed),)
    return judgements or (Judgement(verdict=Verdict.UNKNOWN, observed="the check said nothing"),)
