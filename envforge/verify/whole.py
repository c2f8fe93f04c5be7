"""Check that each question could be observed, and that there is a lockfile to compare with.

These checks come first and can't be skipped, so a report never passes for lack of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from envforge.verify.record import NotObserved, Record
from envforge.verify.values import Check, Judgement, Question, Verdict

_NAMES = {"machine": "the machine", "environment": "the environment", "training": "training"}


def _lack(record: Record, question: Question) -> NotObserved | None:
    return next((lack for lack in record.not_observed if lack.what == question), None)


def _observed(record: Record, question: Question) -> Iterable[Judgement]:
    lack = _lack(record, question)
    if lack is None and getattr(record, question) is None:
        yield Judgement(verdict=Verdict.SKIP, observed="not included in the record")
        return
    if lack is None:
        yield Judgement(verdict=Verdict.PASS, observed=_how(record, question))
        return
    if lack.why in ("broken", "late"):
        verdict = Verdict.UNKNOWN
    elif lack.why == "unfinished" or question in record.asked.explicit:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.SKIP
    wanted = "an installed environment" if question != "machine" else "facts about the machine"
    yield Judgement(verdict=verdict, observed=lack.reason, wanted=wanted, command=lack.command)


def _how(record: Record, question: Question) -> str:
    if record.asked.machine:
        return f"the machine is described by `{record.asked.machine}`"
    seconds = next((item.seconds for item in record.observed if item.what == question), None)
    took = "" if seconds is None else f" in {seconds:.1f} s"
    return f"{_NAMES[question]} was observed{took}"


def _lock(record: Record) -> Iterable[Judgement]:
    project = record.project
    if project is None or project.lock_file is None:
        yield Judgement(verdict=Verdict.SKIP, observed="no project and no lockfile")
    elif project.lock_unreadable is not None:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=project.lock_unreadable,
            wanted="a valid lockfile for this platform",
            source=project.lock_file,
            command=project.lock_command,
        )
    else:
        needs = f"; it requires {project.lock_needs}" if project.lock_needs else ""
        platforms = ", ".join(project.lock_platforms)
        yield Judgement(
            verdict=Verdict.PASS,
            observed=f"valid, for {platforms}{needs}",
            wanted="a valid lockfile for this platform",
            source=project.lock_file,
        )


def _check(question: Question, why: str) -> Check:
    judge: Callable[[Record], Iterable[Judgement]] = partial(_observed, question=question)
    return Check(
        id=f"{question}-observed",
        question=question,
        group="observation",
        title=f"Observation of {_NAMES[question]}",
        why=why,
        severity=Verdict.FAIL,
        judge=judge,
        required=True,
    )


CHECKS: tuple[Check, ...] = (
    _check("machine", "Without facts, no check of the machine can decide anything."),
    Check(
        id="lock-usable",
        question="machine",
        group="observation",
        title="Lockfile for this platform",
        why="Without a lockfile for this platform, there is nothing to compare the machine and environment with.",
        severity=Verdict.FAIL,
        judge=_lock,
    ),
    _check("environment", "Only an installed environment can be compared with its lockfile."),
    _check("training", "Only a completed training run shows that this machine can train."),
)
