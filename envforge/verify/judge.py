"""Judge: pure. Enters: a ``Record`` and the checks. Leaves: a ``Report``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.verify.record import NotObserved, Record
from envforge.verify.values import Check, Finding, Judgement, Report, Verdict


def judge(record: Record, checks: Iterable[Check]) -> Report:
    """What each check says of the record; a check that says nothing or breaks is UNKNOWN, never a pass.

    A question without facts is left to its check in the group ``observation``: what could not be looked at is said
    once, and not by each check that would have needed it.
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
        observed = f"what it needs could not be observed: {lack.reason}"
        return (Judgement(verdict=Verdict.UNKNOWN, observed=observed, command=lack.command),)
    if check.observe is not None and check.id not in record.own:
        return (Judgement(verdict=Verdict.SKIP, observed="the record has nothing of this check"),)
    try:
        judgements = tuple(check.judge(record))
    except Exception as error:  # noqa: BLE001 - a check may come from anywhere, and one that breaks must not hide the others
        observed = f"the check broke: {type(error).__name__}: {error}"
        return (Judgement(verdict=Verdict.UNKNOWN, observed=observed),)
    return judgements or (Judgement(verdict=Verdict.UNKNOWN, observed="the check said nothing"),)


def _own_lack(check: Check, record: Record) -> NotObserved | None:
    if check.observe is None:
        return None
    return next((lack for lack in record.not_observed if lack.what == check.id), None)
