"""Checks of the run itself: whether each question could be looked at, and whether there is a lock to look with.

They stand first, and stay with their question whatever is chosen, so that a report never passes for lack of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from envforge.verify.record import NotObserved, Record
from envforge.verify.values import Check, Judgement, Question, Verdict

_NAMES = {"machine": "the machine", "environment": "the environment", "training": "the training"}
_LOCK_COMMAND = "envforge lock"


def _lack(record: Record, question: Question) -> NotObserved | None:
    return next((lack for lack in record.not_observed if lack.what == question), None)


def _observed(record: Record, question: Question) -> Iterable[Judgement]:
    lack = _lack(record, question)
    if lack is None and getattr(record, question) is None:
        yield Judgement(verdict=Verdict.SKIP, observed="the record has nothing of it: it was not asked")
        return
    if lack is None:
        seconds = next((item.seconds for item in record.observed if item.what == question), None)
        took = "" if seconds is None else f" in {seconds:.1f} s"
        yield Judgement(verdict=Verdict.PASS, observed=f"{_NAMES[question]} was observed{took}")
        return
    if lack.why in ("broken", "late"):
        verdict = Verdict.UNKNOWN
    elif lack.why == "unfinished" or question in record.asked.explicit:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.SKIP
    wanted = "an installed environment" if question != "machine" else "facts"
    yield Judgement(verdict=verdict, observed=lack.reason, wanted=wanted, command=lack.command)


def _lock(record: Record) -> Iterable[Judgement]:
    project = record.project
    if project is None or project.lock_file is None:
        yield Judgement(verdict=Verdict.SKIP, observed="there is no project here")
    elif project.lock_unreadable is not None:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=project.lock_unreadable,
            wanted="a lock for this platform",
            source=project.lock_file,
            command=project.lock_command or _LOCK_COMMAND,
        )
    else:
        needs = f" and needs {project.lock_needs}" if project.lock_needs else ""
        platforms = ", ".join(project.lock_platforms)
        yield Judgement(
            verdict=Verdict.PASS,
            observed=f"the lock is whole, is for {platforms}{needs}",
            wanted="a lock for this platform",
            source=project.lock_file,
        )


def _check(question: Question, why: str) -> Check:
    judge: Callable[[Record], Iterable[Judgement]] = partial(_observed, question=question)
    return Check(
        id=f"{question}-observed",
        question=question,
        group="observation",
        title=f"{_NAMES[question]} can be looked at",
        why=why,
        severity=Verdict.FAIL,
        judge=judge,
        required=True,
    )


CHECKS: tuple[Check, ...] = (
    _check("machine", "Without facts no check of the machine can say anything."),
    Check(
        id="lock-usable",
        question="machine",
        group="observation",
        title="the lock can be read and is for this platform",
        why="Without a lock for this platform nobody can say what this machine and environment have to be.",
        severity=Verdict.FAIL,
        judge=_lock,
    ),
    _check("environment", "The lock promises an environment; only an installed one can be compared with it."),
    _check("training", "Only a training that ran shows that this machine trains."),
)
