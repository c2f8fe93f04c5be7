"""Test that the record is complete and reports the failure if an observer fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.base.envelope import Json
from envforge.errors import EnvforgeError
from envforge.verify.observe import Situation, Surroundings, observe
from envforge.verify.record import NotObserved
from tests.support.recorded import Recorded
from tests.verify.environment.support import situation as make_situation
from tests.verify.made_up import asked, check


def situation(folder: Path, *, limit_s: float = 30.0, needs: frozenset[str] | None = None) -> Situation:
    world = Recorded().world(folder)
    found = make_situation(folder=folder, prefix=None, world=world, questions=("machine",), limit_s=limit_s)
    return replace(found, needs=needs)


def lack_of(folder: Path, ask: object, *, limit_s: float = 30.0) -> NotObserved:
    own = check("own", observe=ask)
    found = observe(situation(folder, limit_s=limit_s), Surroundings(asked=asked()), [own])
    return next(lack for lack in found.not_observed if lack.what == "own")


def test_what_a_teams_observer_says_is_in_the_record(tmp_path: Path) -> None:
    def ask(where: Situation) -> Json:
        return {"seen": [where.folder.name, 1.5, None]}

    found = observe(situation(tmp_path), Surroundings(asked=asked()), [check("own", observe=ask)])
    assert found.own == {"own": {"seen": [tmp_path.name, 1.5, None]}}


def test_an_observer_that_raises_leaves_its_reason_and_where_it_was(tmp_path: Path) -> None:
    def ask(_: Situation) -> Json:
        raise ZeroDivisionError("no GPU to divide by")

    lack = lack_of(tmp_path, ask)
    assert lack.why == "broken"
    assert lack.reason.startswith("ZeroDivisionError: no GPU to divide by, in test_observing.py:")


def test_an_error_of_ours_keeps_its_message_and_its_hint(tmp_path: Path) -> None:
    def ask(_: Situation) -> Json:
        raise EnvforgeError("the lock is damaged", hint="to create it", command="envforge lock", code="x")

    assert lack_of(tmp_path, ask) == NotObserved(
        what="own", why="broken", reason="the lock is damaged", command="envforge lock"
    )


def test_an_observer_that_ends_the_interpreter_ends_itself_alone(tmp_path: Path) -> None:
    def ask(_: Situation) -> Json:
        raise SystemExit(0)

    assert lack_of(tmp_path, ask).why == "broken"


def test_an_observer_that_hangs_is_left_behind(tmp_path: Path) -> None:
    never = threading.Event()

    def ask(_: Situation) -> Json:
        never.wait()
        return None

    try:
        assert lack_of(tmp_path, ask, limit_s=0.05).why == "late"
    finally:
        never.set()


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object()])
def test_what_is_no_json_is_refused(tmp_path: Path, value: object) -> None:
    assert lack_of(tmp_path, lambda _: value).why == "broken"


def test_a_situation_says_what_is_worth_its_time(tmp_path: Path) -> None:
    assert situation(tmp_path).wants("anything")
    chosen = situation(tmp_path, needs=frozenset({"throughput"}))
    assert (chosen.wants("throughput"), chosen.wants("x")) == (True, False)
