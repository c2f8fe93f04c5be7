"""Collect and select the checks, and evaluate them against a record.

These checks come first and can't be skipped, so a report never passes for lack of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points

from envforge.base.suggest import nearest
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.verify.record import Asked, NotObserved, Record
from envforge.verify.values import COSTS, GROUPS, QUESTIONS, Check, Cost, Finding, Judgement, Question, Report, Verdict

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


GROUP = "envforge.checks"


def all_checks() -> tuple[Check, ...]:
    """Return the checks by question, built-in ones first. Raise if one can't be loaded or two have the same id."""
    origins: dict[str, str] = {}
    checks = []
    for check, origin in (*_ours(), *_offered()):
        if check.id in origins:
            raise EnvforgeError(
                f"two checks have the id `{check.id}`: from `{origins[check.id]}` and from `{origin}`",
                hint="change one of the two ids, or uninstall the package that provides it",
                code="checks-broken",
            )
        origins[check.id] = origin
        checks.append(check)
    return tuple(sorted(checks, key=lambda check: QUESTIONS.index(check.question)))


def _ours() -> Iterator[tuple[Check, str]]:
    from envforge.verify.environment import checks as environment  # noqa: PLC0415 - imports all that checks need
    from envforge.verify.machine import checks as machine  # noqa: PLC0415
    from envforge.verify.training import checks as training  # noqa: PLC0415

    yield from ((check, __name__) for check in CHECKS)
    for module in (machine, environment, training):
        yield from ((check, module.__name__) for check in module.CHECKS)


def _offered() -> Iterator[tuple[Check, str]]:
    """Yield the checks of entry points; each names a ``Check`` or a sequence of them."""
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
            checks = (offered,) if isinstance(offered, Check) else tuple(offered)
        except Exception as error:
            raise EnvforgeError(
                f"failed to load the checks of `{entry.value}`: {type(error).__name__}: {error}",
                hint=f"fix or uninstall the package with the entry point `{entry.name}` in `{GROUP}`",
                code="checks-broken",
            ) from error
        for check in checks:
            if not isinstance(check, Check):
                raise EnvforgeError(
                    f"the entry point `{entry.value}` in `{GROUP}` is invalid: expected a Check, found `{check!r}`",
                    hint="let the entry point name a `Check`, or a sequence of `Check` values",
                    code="checks-broken",
                )
            yield check, entry.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The checks to run, in order, the questions that they need, and the highest cost among them."""

    checks: tuple[Check, ...]
    questions: tuple[Question, ...]
    depth: Cost


def choose(asked: Asked, checks: Sequence[Check]) -> Chosen:
    """Return the requested checks; ``only`` selects checks of any cost. Raise ``RequestError`` for an unknown name.

    The checks that report whether a question could be observed are always included.
    """
    for option, words in (("--only", asked.only), ("--skip", asked.skip)):
        for word in words:
            _refuse_unknown(option, word, checks)
    wanted = asked.explicit or QUESTIONS
    open_to = [check for check in checks if check.question in wanted and not _is_skipped(check, asked)]
    if asked.only:
        kept = [check for check in open_to if _matches(check, asked.only)]
        depth: Cost = max((asked.depth, *(check.cost for check in kept)), key=COSTS.index)
    else:
        kept = [check for check in open_to if COSTS.index(check.cost) <= COSTS.index(asked.depth)]
        depth = asked.depth
    if asked.only and not kept:
        raise RequestError(
            f"no checks left: `--only {' '.join(asked.only)}` is excluded by `--skip` or by the subcommand",
            hint="to list the checks",
            command="envforge verify --list",
            code="nothing-to-check",
        )
    questions = _questions(kept if asked.only else [check for check in kept if not _is_about_the_run(check)])
    if not asked.only:
        _refuse_empty(asked, questions)
    first = [check for check in checks if _is_about_the_run(check) and check.question in questions]
    others = [check for check in kept if not _is_about_the_run(check)]
    return Chosen(checks=(*first, *others), questions=questions, depth=depth)


def _refuse_empty(asked: Asked, questions: Sequence[Question]) -> None:
    empty = [question for question in asked.explicit if question not in questions]
    if empty:
        raise RequestError(
            f"no {empty[0]} checks left: `--fast` and `--skip` exclude all of them",
            hint=(
                Hint("to run at least one check, omit `--fast` or `--skip`"),
                Hint("to list the checks with their cost", "envforge verify --list"),
            ),
            code="nothing-to-check",
        )


def _questions(checks: Sequence[Check]) -> tuple[Question, ...]:
    return tuple(question for question in QUESTIONS if any(check.question == question for check in checks))


def _is_skipped(check: Check, asked: Asked) -> bool:
    return not _is_about_the_run(check) and _matches(check, asked.skip)


def _is_about_the_run(check: Check) -> bool:
    return check.group == "observation"


def _matches(check: Check, words: Sequence[str]) -> bool:
    return check.id in words or check.group in words


def _refuse_unknown(option: str, word: str, checks: Sequence[Check]) -> None:
    known = [*(check.id for check in checks), *GROUPS]
    if word in known:
        return
    near = nearest(word, known, alike=0.6)
    raise RequestError(
        f"unknown check or group `{word}` for `{option}`",
        hint=(
            *((Hint(f"did you mean `{option} {near}`?"),) if near else ()),
            Hint("to list the checks", "envforge verify --list"),
        ),
        code="no-such-check",
    )


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
