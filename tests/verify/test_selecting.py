"""Test which checks are selected, and so what is observed."""

from __future__ import annotations

import pytest

from envforge.errors import RequestError
from envforge.verify.checks import CHECKS, Chosen, checks_for, choose
from envforge.verify.values import Check
from tests.verify.made_up import asked, check

OURS: tuple[Check, ...] = (
    *CHECKS,
    check("driver", group="driver"),
    check("disk"),
    check("audit", question="environment", group="packages", cost="default"),
    check("learns", question="training", group="learning", cost="default"),
    check("compile", question="training", group="speed", cost="deep"),
)


def names(chosen: Chosen) -> list[str]:
    return [each.id for each in chosen.checks if each.group != "observation"]


def test_without_a_word_everything_but_the_dear_runs() -> None:
    chosen = choose(asked(), OURS)
    assert names(chosen) == ["driver", "disk", "audit", "learns"]
    assert (chosen.questions, chosen.depth) == (("machine", "environment", "training"), "default")


def test_fast_asks_no_question_that_has_nothing_fast() -> None:
    chosen = choose(asked(depth="fast"), OURS)
    assert (names(chosen), chosen.questions) == (["driver", "disk"], ("machine",))


def test_deep_runs_all() -> None:
    assert "compile" in names(choose(asked(depth="deep"), OURS))


def test_a_question_selects_its_checks() -> None:
    chosen = choose(asked("environment"), OURS)
    assert (names(chosen), chosen.questions) == (["audit"], ("environment",))


def test_only_runs_what_it_names_whatever_it_costs_and_observes_no_other_question() -> None:
    chosen = choose(asked(only=("compile",)), OURS)
    assert (names(chosen), chosen.questions, chosen.depth) == (["compile"], ("training",), "deep")


def test_a_group_is_a_name_for_its_checks() -> None:
    assert names(choose(asked(only=("driver", "packages")), OURS)) == ["driver", "audit"]
    assert names(choose(asked(skip=("system",)), OURS)) == ["driver", "audit", "learns"]


def test_the_checks_of_the_run_cannot_be_skipped() -> None:
    chosen = choose(asked("machine", skip=("machine-observed", "observation")), OURS)
    assert [each.id for each in chosen.checks][:2] == ["machine-observed", "lock-usable"]


def test_a_check_of_the_run_alone_can_be_asked_for() -> None:
    assert choose(asked(only=("lock-usable",)), OURS).questions == ("machine",)


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_name_that_is_none_is_refused_with_the_nearest(option: str) -> None:
    with pytest.raises(RequestError, match="`drivr`") as caught:
        choose(asked(**{option: ("drivr",)}), OURS)
    assert f"did you mean `--{option} driver`?" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_choice_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="no checks left"):
        choose(asked("machine", only=("learns",)), OURS)


def test_a_request_of_one_question_collects_only_its_checks() -> None:
    found = [each for each in checks_for(asked("machine")) if each.group != "observation"]
    assert {each.question for each in found} == {"machine"}
    named = checks_for(asked("machine", only=("learning",)))
    assert {each.question for each in named} == {"machine", "environment", "training"}
