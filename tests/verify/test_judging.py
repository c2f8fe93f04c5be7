"""Test which checks are selected, how judgements become findings, and that no judgement never passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import envforge.verify
from envforge.errors import RequestError
from envforge.verify.checks import CHECKS, ChosenChecks, all_checks, checks_for, choose, judge
from envforge.verify.record import NotObserved, Observed, ProjectFacts, Record
from envforge.verify.values import Check, Finding, Judgement, Report, Verdict
from tests.verify.made_up import asked, check, finding, record, report, says

OURS: tuple[Check, ...] = (
    *CHECKS,
    check("driver", group="driver"),
    check("disk"),
    check("audit", question="environment", group="packages", cost="default"),
    check("learns", question="training", group="learning", cost="default"),
    check("compile", question="training", group="speed", cost="deep"),
)


def only(found: Report) -> Finding:
    (one,) = found.findings
    return one


def of_the_run(name: str) -> Check:
    return next(each for each in CHECKS if each.id == name)


def test_a_check_that_says_nothing_is_unknown() -> None:
    assert only(judge(record(), [check("silent", lambda _: ())])).verdict is Verdict.UNKNOWN


def test_a_check_that_breaks_is_unknown_and_the_others_still_speak() -> None:
    def breaks(_: Record) -> Iterator[Judgement]:
        yield says(Verdict.PASS, "so far")
        raise KeyError("gpus")

    first, second = judge(record(), [check("breaks", breaks), check("well")]).findings
    assert (first.verdict, first.observed) == (Verdict.UNKNOWN, "the check raised KeyError: 'gpus'")
    assert second.verdict is Verdict.PASS


def test_a_judgements_own_reason_stands_before_that_of_the_check() -> None:
    both = check("both", lambda _: [says(Verdict.FAIL, "a", why="its own"), says(Verdict.FAIL, "b")])
    assert [each.why for each in judge(record(), [both]).findings] == ["its own", "why both matters"]


def test_a_question_without_facts_is_left_to_the_check_of_the_run() -> None:
    failed = record(
        machine=None, observed=(), not_observed=(NotObserved(what="machine", why="broken", reason="OSError: gone"),)
    )
    found = judge(failed, [of_the_run("machine-observed"), check("driver")])
    assert (only(found).check, only(found).verdict, only(found).fails) == ("machine-observed", Verdict.UNKNOWN, True)
    assert "OSError: gone" in only(found).observed


@pytest.mark.parametrize("why", ["broken", "late"])
def test_a_question_that_could_not_be_looked_at_fails_the_run(why: str) -> None:
    lack = NotObserved(what="training", why=why, reason="r")  # type: ignore[arg-type]
    assert not judge(record(not_observed=(lack,)), [of_the_run("training-observed")]).passed()


def test_nothing_installed_is_skipped_unless_it_was_asked_for() -> None:
    lack = NotObserved(what="environment", why="absent", reason="nothing there", command="envforge install")
    for explicit, verdict in (((), Verdict.SKIP), (("environment",), Verdict.FAIL)):
        found = judge(record(not_observed=(lack,), asked=asked(*explicit)), [of_the_run("environment-observed")])
        assert (only(found).verdict, only(found).command) == (verdict, "envforge install")


def test_an_unfinished_environment_fails_even_where_it_was_not_asked_for() -> None:
    lack = NotObserved(what="environment", why="unfinished", reason="interrupted", command="envforge install")
    assert only(judge(record(not_observed=(lack,)), [of_the_run("environment-observed")])).verdict is Verdict.FAIL


def test_a_record_that_was_never_asked_does_not_pass() -> None:
    assert only(judge(record(), [of_the_run("training-observed")])).verdict is Verdict.SKIP


def test_a_question_that_was_observed_says_how_long_it_took() -> None:
    found = judge(record(observed=(Observed(what="machine", seconds=1.26),)), [of_the_run("machine-observed")])
    assert (only(found).verdict, only(found).observed) == (Verdict.PASS, "the machine was observed in 1.3 s")


@pytest.mark.parametrize(
    ("project", "verdict"),
    [
        (None, Verdict.SKIP),
        (ProjectFacts(name="p"), Verdict.SKIP),
        (ProjectFacts(lock_file="l", lock_unreadable="damaged", lock_command="envforge lock"), Verdict.FAIL),
        (ProjectFacts(lock_file="l", lock_sha256="00", lock_platforms=("linux-64",)), Verdict.PASS),
    ],
)
def test_a_lock_passes_only_where_it_was_read(project: ProjectFacts | None, verdict: Verdict) -> None:
    assert only(judge(record(project=project), [of_the_run("lock-usable")])).verdict is verdict


def test_what_a_teams_check_could_not_observe_is_unknown() -> None:
    own = check("disk-array", observe=lambda _: 1)
    failed = record(not_observed=(NotObserved(what="disk-array", why="broken", reason="OSError: no array"),))
    assert only(judge(failed, [own])).verdict is Verdict.UNKNOWN
    assert only(judge(record(own={"disk-array": 3}), [own])).verdict is Verdict.PASS
    assert only(judge(record(), [own])).verdict is Verdict.SKIP


@pytest.mark.parametrize(
    ("verdict", "required", "passes", "passes_strictly"),
    [
        (Verdict.PASS, True, True, True),
        (Verdict.INFO, True, True, True),
        (Verdict.SKIP, True, True, True),
        (Verdict.WARN, True, True, False),
        (Verdict.UNKNOWN, False, True, True),
        (Verdict.UNKNOWN, True, False, False),
        (Verdict.FAIL, False, False, False),
    ],
)
def test_what_fails_a_run(verdict: Verdict, required: bool, passes: bool, passes_strictly: bool) -> None:
    one = report(finding("x", verdict, required=required))
    assert (one.passed(), one.passed(strict=True)) == (passes, passes_strictly)


def test_titles_are_nouns_that_fit_every_verdict() -> None:
    verb = re.compile(r"\b(is|are|has|have|can|may|does|do|should|not|no)\b", re.IGNORECASE)
    titles = {check.id: check.title for check in all_checks()}
    assert {name: title for name, title in titles.items() if verb.search(title) or title.endswith(".")} == {}
    assert [
        name for name, title in titles.items() if title[0].islower() and not title.startswith(("glibc", "torch"))
    ] == []
    assert len(set(titles.values())) == len(titles)


def test_each_check_says_why_it_matters() -> None:
    assert [check.id for check in all_checks() if not re.fullmatch(r"[^\n]{20,160}\.", check.why)] == []


def test_no_check_looks_into_a_message() -> None:
    words = r"\b(?:unreadable|observed|message|stderr)\b"
    look = re.compile(rf"{words}(?: or \"\"\))?(?:\.startswith|\.endswith| [!=]= \")|\bin [\w.]*\.unreadable\b")
    package = Path(envforge.verify.__file__).parent
    found = {path.name: look.findall(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
    assert {name: parts for name, parts in found.items() if parts} == {}


def names(chosen: ChosenChecks) -> list[str]:
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
