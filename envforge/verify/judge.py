"""Evaluate the checks against a ``Record`` and return a ``Report``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.verify.record import NotObserved, Record
from envforge.verify.values import Check, Finding, Judgement, Report, Verdict


def judge(record: Record, checks: Iterable[Check]) -> Report:
    """Return the findings of each check; a check that returns nothing or raises is UNKNOWN, never a pass.

    If a question has no facts, only its check in the group ``observation`` reports it.
    """
    return Report(record=record, findings=tuple(finding for check in checks for finding in _findings(check, record)))


def _findings(check: Check, record: Record) -> Iterator[Finding]:
    if check.group != "observation" and getattr(record, check.question) is None:
        return
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
    lack = _own_lack(check, record)
    if lack is not None:
        observed = f"the required facts could not be observed: {lack.reason}"
        return (Judgement(verdict=Verdict.UNKNOWN, observed=observed, command=lack.command),)
    if check.observe is not None and check.id not in record.own:
        return (Judgement(verdict=Verdict.SKIP, observed="not included in the record"),)
    try:
        judgements = tuple(check.judge(record))
    except Exception as error:  # noqa: BLE001 - checks of other packages may raise anything, and must not hide the rest
        observed = f"the check raised {type(error).__name__}: {error}"
        return (Judgement(verdict=Verdict.UNKNOWN, observed=observed),)
    return judgements or (Judgement(verdict=Verdict.UNKNOWN, observed="the check returned nothing"),)


def _own_lack(check: Check, record: Record) -> NotObserved | None:
    if check.observe is None:
        return None
    return next((lack for lack in record.not_observed if lack.what == check.id), None)
