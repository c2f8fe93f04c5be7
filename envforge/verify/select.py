"""Which checks run: from the words of the command line to checks, the questions they belong to, and what they cost.

Pure. Enters: an ``Asked`` and all checks. Leaves: a ``Chosen``; a word that names nothing raises ``RequestError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from envforge.errors import RequestError
from envforge.nearest import nearest
from envforge.verify.record import Asked
from envforge.verify.values import COSTS, GROUPS, QUESTIONS, Check, Cost, Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The checks that run, in their order, the questions that they need, and the dearest cost among them."""

    checks: tuple[Check, ...]
    questions: tuple[Question, ...]
    depth: Cost


def choose(asked: Asked, checks: Sequence[Check]) -> Chosen:
    """The checks that were asked for. What is named with ``only`` runs whatever it costs.

    The checks that say whether a question could be looked at all stay with their question.
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
            f"--only {' '.join(asked.only)} leaves no check: --skip or the questions asked leave them out",
            hint="see all of them: envforge verify --list",
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
            f"no check of the {empty[0]} is left: each takes longer than --fast allows, or is skipped",
            hint="leave --fast or --skip out; see all checks with their costs: envforge verify --list",
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
        f"{option} `{word}` names no check and no group" + (f"; did you mean `{near}`?" if near else ""),
        hint="see all of them: envforge verify --list",
        code="no-such-check",
    )
