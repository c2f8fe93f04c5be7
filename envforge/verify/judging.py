"""Define checks, and build the judgements that they return.

A module attribute that is a ``Check`` is a check; ``check`` makes one from a judge. A judge does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from envforge.base.envelope import Json
from envforge.verify.values import Check, Cost, Group, Judgement, Question, Severity, Signal, Verdict

if TYPE_CHECKING:
    from envforge.verify.observe import Situation
    from envforge.verify.record import Record

S = TypeVar("S")
P = TypeVar("P")

Judged = Judgement | Iterable[Judgement]


class View(Struct, Generic[S], frozen=True, kw_only=True):
    """What a judge receives: the part of the record that answers a question, once or once for each device.

    ``judged`` calls the judge with each part. It can complete the judgements, for example with the name of the device.
    ``needs`` names the expensive facts that it reads.
    """

    question: Question
    judged: Callable[[Record, Callable[[S], Judged]], Iterable[Judgement]]
    needs: tuple[str, ...] = ()

    def part(self, select: Callable[[S], P | Judgement], needs: tuple[str, ...] = ()) -> View[P]:
        """Return the view of a part; ``select`` returns a judgement if there is nothing to judge."""

        def judged(record: Record, judge: Callable[[P], Judged]) -> Iterable[Judgement]:
            def of_part(whole: S) -> Judged:
                found = select(whole)
                return found if isinstance(found, Judgement) else judge(found)

            return self.judged(record, of_part)

        return View(question=self.question, judged=judged, needs=needs or self.needs)


def record_of(question: Question) -> View[Record]:
    """Return the view of the complete record, for checks that belong to ``question``."""
    return View(question=question, judged=lambda record, judge: as_judgements(judge(record)))


def facts_of(question: Question) -> View[Any]:
    """Return the view of the facts of a question; the engine skips its checks if there are none."""
    return View(question=question, judged=lambda record, judge: as_judgements(judge(getattr(record, question))))


def check(  # noqa: PLR0913 - these are the columns of the table of checks
    check_id: str,
    title: str,
    *,
    of: View[S],
    group: Group,
    severity: Severity = Verdict.FAIL,
    cost: Cost = "fast",
    required: bool = False,
    row: int | None = None,
    needs: tuple[str, ...] = (),
    observe: Callable[[Situation], Json] | None = None,
) -> Callable[[Callable[[S], Judged]], Check]:
    """Return a decorator that turns a judge into a check; see ``Check`` for the fields.

    ``of`` selects what the judge receives. The judge's docstring tells readers of a finding why it matters. The judge
    returns at least one judgement, because no finding is not a pass.
    """

    def decorate(judge: Callable[[S], Judged]) -> Check:
        return Check(
            id=check_id,
            question=of.question,
            group=group,
            title=title,
            why=" ".join((judge.__doc__ or "").split()),
            severity=severity,
            judge=lambda record: of.judged(record, judge),
            cost=cost,
            required=required,
            row=row,
            # a check may need more than its view
            needs=needs or of.needs,
            observe=observe,
        )

    return decorate


def checks_in(module: ModuleType) -> Iterator[Check]:
    """Yield the checks that a module defines, in their order."""
    return (value for value in vars(module).values() if isinstance(value, Check))


def as_judgements(judged: Judged) -> Iterable[Judgement]:
    """Return what a judge returned as a sequence, because a judge may return one judgement or several."""
    return (judged,) if isinstance(judged, Judgement) else judged


def passed(observed: str, wanted: str = "", source: str = "", **more: str) -> Judgement:
    """Return a judgement: the check found what was expected."""
    return Judgement(verdict=Verdict.PASS, observed=observed, wanted=wanted, source=source, **more)


def info(observed: str, wanted: str = "", source: str = "", **more: str) -> Judgement:
    """Return a judgement: a fact worth knowing."""
    return Judgement(verdict=Verdict.INFO, observed=observed, wanted=wanted, source=source, **more)


def warned(observed: str, wanted: str, source: str = "", **more: str) -> Judgement:
    """Return a judgement: training works, but worse than it could."""
    return Judgement(verdict=Verdict.WARN, observed=observed, wanted=wanted, source=source, **more)


def failed(observed: str, wanted: str, source: str = "", **more: str) -> Judgement:
    """Return a judgement: training fails, or its results can't be trusted."""
    return Judgement(verdict=Verdict.FAIL, observed=observed, wanted=wanted, source=source, **more)


def skipped(why: str, source: str = "", **more: str) -> Judgement:
    """Return a judgement: the check doesn't apply, or isn't permitted."""
    return Judgement(verdict=Verdict.SKIP, observed=why, source=source, **more)


def unknown(observed: str, wanted: str = "", source: str = "", **more: str) -> Judgement:
    """Return a judgement: the check applies, but its facts are missing."""
    return Judgement(verdict=Verdict.UNKNOWN, observed=observed, wanted=wanted, source=source, **more)


def unread(signal: Signal[Any], what: str = "", **more: str) -> Judgement:
    """Return SKIP if the hardware lacks the signal or reading it isn't permitted, else UNKNOWN.

    ``what`` starts the text, such as "the loaded libraries are unknown".
    """
    reason = signal.unreadable or "not read"
    # nothing that the user could repair: a required check must not fail because a GPU lacks a feature
    judgement = skipped if signal.code in ("not-supported", "no-permission") else unknown
    return judgement(f"{what}: {reason}" if what else reason, source=signal.source, **more)


def counted(number: int, noun: str) -> str:
    """Return ``1 GPU`` or ``2 GPUs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
