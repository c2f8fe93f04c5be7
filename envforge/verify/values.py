"""Define the values of ``verify``: signals, judgements, checks, findings, and reports.

A signal that could not be read has a reason; a check never treats it as a good one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from msgspec import Struct

from envforge.base.envelope import Json

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
    """The result of a check. ``SKIP``: it doesn't apply or lacks permission; ``UNKNOWN``: its facts are missing."""

    PASS = "pass"  # noqa: S105 - a verdict
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"


Severity = Literal[Verdict.FAIL, Verdict.WARN, Verdict.INFO]
SignalCode = Literal[
    "not-wanted",  # no selected check needs it
    "not-found",  # the file, library, or package doesn't exist
    "not-supported",  # the hardware or the driver doesn't have it
    "no-permission",
    "no-answer",  # the process or the driver hung or crashed
    "gpu-lost",  # NVML_ERROR_GPU_IS_LOST or NVML_ERROR_RESET_REQUIRED
    "undefined-symbol",  # a library was loaded that another one doesn't fit
]


class Signal(Struct, Generic[T], frozen=True, kw_only=True):
    """One fact with the place where it was read.

    ``unreadable`` is the reason if there is no ``value``, and ``code`` is that reason if checks distinguish it.
    """

    value: T | None = None
    source: str = ""
    unreadable: str | None = None
    code: SignalCode | None = None


class Judgement(Struct, frozen=True, kw_only=True):
    """The verdict on one subject (a GPU, a library); ``command`` is one line to paste."""

    verdict: Verdict
    observed: str
    wanted: str = ""
    source: str = ""
    subject: str = ""
    why: str = ""
    command: str = ""


class Check(Struct, frozen=True, kw_only=True):
    """One check, made by the decorator ``check``.

    ``why`` tells the reader of a finding why it matters. ``severity`` is the worst verdict on a problem. If
    ``required`` is set, UNKNOWN also fails the run. ``row`` is the row of the table in docs/verify-machine.md.
    ``needs`` names the expensive facts that it reads: observers omit those that no selected check needs. ``observe``
    is for checks of other packages, which find its result in ``record.own[id]``.
    """

    id: str
    question: Question
    group: Group
    title: str
    why: str
    severity: Severity
    judge: Callable[[Record], Iterable[Judgement]]
    cost: Cost = "fast"
    required: bool = False
    row: int | None = None
    needs: tuple[str, ...] = ()
    observe: Callable[[Situation], Json] | None = None


class Finding(Struct, frozen=True, kw_only=True):
    """A judgement and the check that it comes from; ``why`` is the judgement's own, or else the check's."""

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
        """Whether this finding fails the run."""
        return self.verdict is Verdict.FAIL or (self.verdict is Verdict.UNKNOWN and self.required)


class Report(Struct, frozen=True, kw_only=True):
    """The record and its findings, in the order of the checks."""

    record: Record
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """The number of findings with each verdict, zeros included."""
        return {verdict: sum(finding.verdict is verdict for finding in self.findings) for verdict in Verdict}

    def passed(self, *, strict: bool = False) -> bool:
        """Return whether nothing fails; with ``strict``, a warning fails, too."""
        warns = strict and any(finding.verdict is Verdict.WARN for finding in self.findings)
        return not warns and not any(finding.fails for finding in self.findings)
