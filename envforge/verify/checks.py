"""Collect and select the checks, and evaluate them against a record.

These checks come first and can't be skipped, so a report never passes for lack of facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from msgspec import Struct

from envforge.errors import EnvforgeError, Hint, RequestError, printable
from envforge.verify.judging import check, checks_in, failed, passed, record_of, skipped, unknown
from envforge.verify.record import Asked, NotObserved, Record
from envforge.verify.values import COSTS, GROUPS, QUESTIONS, Check, Cost, Finding, Judgement, Question, Report, Verdict

_NAMES = {"machine": "the machine", "environment": "the environment", "training": "training"}
GROUP = "envforge.checks"
# the modules that define checks, in the order of reports; each is imported only for its question
_MODULES: dict[Question, tuple[str, ...]] = {
    "machine": ("driver", "compatibility", "gpus", "resources"),
    "environment": ("checks",),
    "training": ("devices", "learning", "speed"),
}


def _observed(question: Question, record: Record) -> Judgement:
    lack = _lack(record, question)
    if lack is None and getattr(record, question) is None:
        return skipped("not included in the record")
    if lack is None:
        return passed(_how(record, question))
    # envforge failed here, which says nothing about the machine
    if lack.why in ("broken", "late"):
        verdict = Verdict.UNKNOWN
    elif lack.why == "unfinished" or question in record.asked.explicit:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.SKIP
    wanted = "an installed environment" if question != "machine" else "facts about the machine"
    return Judgement(verdict=verdict, observed=lack.reason, wanted=wanted, command=lack.command)


def _lack(record: Record, what: str) -> NotObserved | None:
    return next((lack for lack in record.not_observed if lack.what == what), None)


def _how(record: Record, question: Question) -> str:
    if record.asked.machine:
        return f"the machine is described by `{record.asked.machine}`"
    seconds = next((item.seconds for item in record.observed if item.what == question), None)
    took = "" if seconds is None else f" in {seconds:.1f} s"
    return f"{_NAMES[question]} was observed{took}"


_observation = partial(check, group="observation")


@_observation("machine-observed", "Observation of the machine", of=record_of("machine"), required=True)
def _machine(record: Record) -> Judgement:
    """Without facts, no check of the machine can decide anything."""
    return _observed("machine", record)


@_observation("lock-usable", "Lockfile for this platform", of=record_of("machine"))
def _lock(record: Record) -> Judgement:
    """Without a lockfile for this platform, there is nothing to compare the machine and environment with."""
    project, wanted = record.project, "a valid lockfile for this platform"
    if project is None or project.lock_file is None:
        return skipped("no project and no lockfile")
    if project.lock_unreadable is not None:
        return failed(project.lock_unreadable, wanted, project.lock_file, command=project.lock_command)
    needs = f"; it requires {project.lock_needs}" if project.lock_needs else ""
    return passed(f"valid, for {', '.join(project.lock_platforms)}{needs}", wanted, project.lock_file)


@_observation("environment-observed", "Observation of the environment", of=record_of("environment"), required=True)
def _environment(record: Record) -> Judgement:
    """Only an installed environment can be compared with its lockfile."""
    return _observed("environment", record)


@_observation("training-observed", "Observation of training", of=record_of("training"), required=True)
def _training(record: Record) -> Judgement:
    """Only a completed training run shows that this machine can train."""
    return _observed("training", record)


CHECKS = (_machine, _lock, _environment, _training)


def checks_for(asked: Asked) -> tuple[Check, ...]:
    """Return the checks that a request can select; if it names some, all, because a name can be of any question."""
    return all_checks(QUESTIONS if asked.only or asked.skip or not asked.explicit else asked.explicit)


def all_checks(questions: Sequence[Question] = QUESTIONS) -> tuple[Check, ...]:
    """Return the checks of these questions, built-in ones first.

    Raises ``EnvforgeError`` if one can't be loaded or two have the same id.
    """
    origins: dict[str, str] = {}
    checks = []
    for found, origin in (*_built_in(questions), *_offered()):
        if found.id in origins:
            raise EnvforgeError(
                f"two checks have the id `{found.id}`: from `{origins[found.id]}` and from `{origin}`",
                hint="change one of the two ids, or uninstall the package that provides it",
                code="checks-broken",
            )
        origins[found.id] = origin
        checks.append(found)
    # the sort is stable, so that within a question the order of the modules is kept
    return tuple(sorted(checks, key=lambda found: QUESTIONS.index(found.question)))


def _built_in(questions: Sequence[Question]) -> Iterator[tuple[Check, str]]:
    """Yield the checks of envforge in the order of reports."""
    yield from ((found, __name__) for found in CHECKS)
    modules = [f"envforge.verify.{question}.{name}" for question in questions for name in _MODULES[question]]
    for module in modules:
        yield from ((found, module) for found in checks_in(import_module(module)))


def _offered() -> Iterator[tuple[Check, str]]:
    """Yield the checks of entry points; each names a module with checks, a check, or a sequence of checks."""
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
            if isinstance(offered, ModuleType):
                offered = checks_in(offered)
            checks = (offered,) if isinstance(offered, Check) else tuple(offered)
        except Exception as error:
            raise EnvforgeError(
                f"failed to load the checks of `{entry.value}`: {type(error).__name__}: {error}",
                hint=f"fix or uninstall the package with the entry point `{entry.name}` in `{GROUP}`",
                code="checks-broken",
            ) from error
        for found in checks:
            if not isinstance(found, Check):
                raise EnvforgeError(
                    f"the entry point `{entry.value}` in `{GROUP}` is invalid: expected a Check, found `{found!r}`",
                    hint="let the entry point name a module with checks, a `Check`, or a sequence of them",
                    code="checks-broken",
                )
            yield found, entry.value


class ChosenChecks(Struct, frozen=True, kw_only=True):
    """The checks to run, in order, the questions that they need, and the highest cost among them."""

    checks: tuple[Check, ...]
    questions: tuple[Question, ...]
    depth: Cost

    @property
    def needs(self) -> frozenset[str] | None:
        """The facts that the checks need; None, which is all, if a team's check doesn't declare them."""
        # such a check reads the record of envforge's own observers, and any fact may be the one that it needs
        if any(check.group == "own" and check.observe is None and not check.needs for check in self.checks):
            return None
        return frozenset(need for check in self.checks for need in check.needs)


def choose(asked: Asked, checks: Sequence[Check]) -> ChosenChecks:
    """Return the requested checks; ``only`` selects checks of any cost. Raise ``RequestError`` for an unknown name.

    The checks that report whether a question could be observed are always included.
    """
    known = [*(check.id for check in checks), *GROUPS]
    for option, words in (("--only", asked.only), ("--skip", asked.skip)):
        for word in words:
            if word not in known:
                raise _unknown_name(option, word, known)
    wanted = asked.explicit or QUESTIONS
    open_to = [
        check
        for check in checks
        if check.question in wanted and (_is_about_the_run(check) or not _matches(check, asked.skip))
    ]
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
    counted = {check.question for check in kept if asked.only or not _is_about_the_run(check)}
    questions = tuple(question for question in QUESTIONS if question in counted)
    if not asked.only:
        _refuse_empty(asked, questions)
    # from all checks: no option can leave them out
    first = [check for check in checks if _is_about_the_run(check) and check.question in questions]
    others = [check for check in kept if not _is_about_the_run(check)]
    return ChosenChecks(checks=(*first, *others), questions=questions, depth=depth)


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


def _is_about_the_run(check: Check) -> bool:
    return check.group == "observation"


def _matches(check: Check, words: Sequence[str]) -> bool:
    return check.id in words or check.group in words


def _unknown_name(option: str, word: str, known: Sequence[str]) -> RequestError:
    from envforge.base.suggest import nearest  # noqa: PLC0415 - only errors need it

    near = nearest(word, known, alike=0.6)
    return RequestError(
        f"unknown check or group `{printable(word)}` for `{option}`",
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
    of_check = {name: getattr(check, name) for name in ("question", "group", "title", "required")}
    for judgement in _judgements(check, record):
        found = {name: getattr(judgement, name) for name in judgement.__struct_fields__}
        yield Finding(check=check.id, **of_check, **{**found, "why": judgement.why or check.why})


def _judgements(check: Check, record: Record) -> tuple[Judgement, ...]:
    if check.observe is not None:
        lack = _lack(record, check.id)
        if lack is not None:
            return (unknown(f"the required facts could not be observed: {lack.reason}", command=lack.command),)
        if check.id not in record.own:
            return (skipped("not included in the record"),)
    try:
        judgements = tuple(check.judge(record))
    except Exception as error:  # noqa: BLE001 - checks of other packages may raise anything, and must not hide the rest
        return (unknown(f"the check raised {type(error).__name__}: {error}"),)
    return judgements or (unknown("the check returned nothing"),)
