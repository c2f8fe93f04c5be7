"""Signals that were read, checks that judge them, and findings.

A signal that could not be read has a reason; a check never treats it as a good one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from envforge.report import Json

if TYPE_CHECKING:
    from envforge.verify.observe import Situation
    from envforge.verify.record import Record

T = TypeVar("T")

Question = Literal["machine", "environment", "training"]
Group = Literal[
    "observation",
    "presence",
    "driver",
    "compatibility",
    "container",
    "health",
    "performance",
    "system",
    "variables",
    "packages",
    "libraries",
    "numerics",
    "learning",
    "speed",
    "several-gpus",
    "own",
]
Cost = Literal["fast", "default", "deep"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
GROUPS: tuple[Group, ...] = get_args(Group)
COSTS: tuple[Cost, ...] = get_args(Cost)


class Verdict(str, Enum):
    """What a check says. ``SKIP``: it does not apply or may not look; ``UNKNOWN``: it applies and could not tell."""

    PASS = "pass"  # noqa: S105 - a verdict
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal(Generic[T]):
    """One fact with the place where it was read; ``unreadable`` says why there is no ``value``."""

    value: T | None = None
    source: str = ""
    unreadable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a check says of one subject (a GPU, a library); ``command`` is one line to paste."""

    verdict: Verdict
    observed: str
    wanted: str = ""
    source: str = ""
    subject: str = ""
    why: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing to look at. ``judge`` is pure and says something in every case: silence is not a pass.

    ``severity`` is the worst that it says of a fault. ``required``: where the answer is UNKNOWN the run fails.
    ``row`` is the row of the check table in docs/verify.md. ``observe`` is for the checks of a team, which
    find what it returned in ``record.own[id]``; ours share the observers of their question.
    """

    id: str
    question: Question
    group: Group
    title: str
    why: str
    severity: Literal[Verdict.FAIL, Verdict.WARN, Verdict.INFO]
    judge: Callable[[Record], Iterable[Judgement]]
    cost: Cost = "fast"
    required: bool = False
    row: int | None = None
    observe: Callable[[Situation], Json] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A judgement with the check that it comes from; ``why`` is the judgement's own or the check's."""

    check: str
    question: Question
    group: Group
    title: str
    required: bool
    verdict: Verdict
    observed: str
    wanted: str
    source: str
    subject: str
    why: str
    command: str

    @property
    def fails(self) -> bool:
        """Whether this finding alone makes the run fail."""
        return self.verdict is Verdict.FAIL or (self.verdict is Verdict.UNKNOWN and self.required)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The record and what the checks found in it, in the order of the checks."""

    record: Record
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How often each verdict was given; every verdict is there."""
        return {verdict: sum(finding.verdict is verdict for finding in self.findings) for verdict in Verdict}

    def passed(self, *, strict: bool = False) -> bool:
        """Whether nothing fails; ``strict`` makes a warning fail."""
        warns = strict and any(finding.verdict is Verdict.WARN for finding in self.findings)
        return not warns and not any(finding.fails for finding in self.findings)
