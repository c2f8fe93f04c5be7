"""Select the checks to run, and the questions that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from envforge.errors import Hint, RequestError
from envforge.nearest import nearest
from envforge.verify.record import Asked
from envforge.verify.values import COSTS, GROUPS, QUESTIONS, Check, Cost, Question


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
