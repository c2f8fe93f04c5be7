"""Observe everything that a situation allows, and return a ``Record``.

An observer that raises or runs out of time leaves a ``NotObserved``, and the others continue.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct

from envforge import __version__
from envforge.base.documents import Document
from envforge.base.envelope import Json
from envforge.errors import EnvforgeError
from envforge.machine.world import World
from envforge.verify.machine.reference_data import matrix
from envforge.verify.record import Asked, NotObserved, Observed, ProjectFacts, Record
from envforge.verify.values import Check, Cost, Question

# total time limit of each question, in multiples of the limit of one process
_PATIENCE: dict[Question, float] = {"machine": 2.0, "environment": 4.0, "training": 40.0}


class Situation(Struct, frozen=True, kw_only=True):
    """What ``verify`` can observe: the machine, and the project, lockfile, and environment if they exist.

    ``depth`` is the highest permitted cost. ``needs`` holds the facts that the selected checks need; None stands for
    all. ``limit_s`` is the time limit of each child process. ``say`` receives progress messages.
    """

    world: World
    now: datetime
    folder: Path
    project: Path | None
    lock: Path | None
    prefix: Path | None
    questions: tuple[Question, ...]
    depth: Cost = "default"
    limit_s: float = 120.0
    needs: frozenset[str] | None = None
    say: Callable[[str], None] = lambda _text: None

    def wants(self, fact: str) -> bool:
        """Return whether a selected check needs this fact, so that it is worth the time."""
        return self.needs is None or fact in self.needs


class Surroundings(Struct, frozen=True, kw_only=True):
    """What is known before anything is observed: the request, the project, and what can't be observed."""

    asked: Asked
    project: ProjectFacts | None = None
    absent: tuple[NotObserved, ...] = ()


def observe(situation: Situation, surroundings: Surroundings, checks: Iterable[Check]) -> Record:
    """Run the observer of each question of the situation, and the observers of other packages' checks."""
    facts: dict[str, Any] = {}
    own: dict[str, Any] = {}
    observed, missing = [], list(surroundings.absent)
    for question in situation.questions:
        began_s = time.monotonic()
        ask = partial(_ask, question, situation)
        missing += _guarded(question, ask, situation.limit_s * _PATIENCE[question], facts)
        if question in facts:
            observed.append(Observed(what=question, seconds=round(time.monotonic() - began_s, 3)))
    for check in checks:
        if check.observe is not None and check.question in situation.questions:
            missing += _guarded(check.id, partial(_ask_own, check.observe, situation), situation.limit_s, own)
    return Record(
        envforge=__version__,
        refreshed_facts=matrix().refreshed,
        created_at=situation.now,
        asked=surroundings.asked,
        observed=tuple(observed),
        not_observed=tuple(missing),
        project=surroundings.project,
        **facts,
        own=own,
    )


def _ask(question: Question, situation: Situation) -> object:
    """Return the facts of one question."""
    # the package imports this module for its `Situation`, so a static import would be circular
    observer = import_module(f"envforge.verify.{question}.observe")
    return getattr(observer, f"observe_{question}")(situation)


def _ask_own(ask: Callable[[Situation], Json], situation: Situation) -> object:
    """Return the result of another package's observer as the record will contain it; raise if it isn't JSON."""
    document = Document(damaged="the result of `observe` is invalid", error=EnvforgeError, code="checks-broken")
    # written and read, so that a check judges the same values now and with `--from`
    return document.read_json(json.dumps(ask(situation), allow_nan=False), Any)


def _guarded(what: str, ask: Callable[[], object], limit_s: float, found: dict[str, Any]) -> Iterator[NotObserved]:
    """Call an observer in a thread, which is left behind if it hangs. Add its value to ``found``, or yield why not."""
    # a future would be waited for when the interpreter exits
    results: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            results.put((ask(), None))
        except BaseException as error:  # noqa: BLE001 - reported in the record, and must not end the run
            results.put((None, error))

    # a daemon, because a thread that hangs in the driver must not keep envforge from exiting
    threading.Thread(target=work, name=f"verify-{what}", daemon=True).start()
    try:
        value, error = results.get(timeout=limit_s)
    except Empty:
        yield NotObserved(what=what, why="late", reason=f"not finished after {limit_s:.0f} s")
        return
    if error is None:
        found[what] = value
        return
    command = next(iter(error.commands), "") if isinstance(error, EnvforgeError) else ""
    yield NotObserved(what=what, why="broken", reason=_reason(error), command=command)


def _reason(error: BaseException) -> str:
    if isinstance(error, EnvforgeError):
        return error.message
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f", in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{where}"
