"""Test the machine observer on the computer that runs the tests."""

from __future__ import annotations

import os

import pytest

from envforge.machine.driver_child import SIGNALS
from envforge.machine.world import World
from envforge.verify.checks import judge
from envforge.verify.machine.observe import observe_machine
from envforge.verify.record import Record, read_record, record_to_json
from envforge.verify.values import Report, Verdict
from tests.verify.environment.support import NOW, situation
from tests.verify.machine.scenes import CHECKS


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("nothing")
    here = situation(folder=folder, prefix=None, world=World.here(os.environ))
    return judge(Record(envforge="0", created_at=NOW, machine=observe_machine(here)), CHECKS)


def test_this_computer_gives_a_record_that_is_read_back_the_same(report: Report) -> None:
    import json

    assert read_record(json.dumps(record_to_json(report.record)), "here") == report.record


def test_every_check_says_something_of_this_computer(report: Report) -> None:
    assert {finding.check for finding in report.findings} == {check.id for check in CHECKS}
    assert not [finding.observed for finding in report.findings if "the check broke" in finding.observed]


def test_without_a_lock_and_a_gpu_nothing_fails(report: Report) -> None:
    facts = report.record.machine
    if facts is not None and (facts.driver.pci or facts.machine.driver is not None):
        pytest.skip("this computer has an NVIDIA GPU or driver")
    assert [f.check for f in report.findings if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)] == []


def test_a_check_of_the_machine_names_no_other_question() -> None:
    assert {check.question for check in CHECKS} == {"machine"}
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.gpu
def test_a_real_gpu_answers_for_its_signals(report: Report) -> None:
    facts = report.record.machine
    if facts is None or not facts.gpus:
        pytest.skip("this computer has no GPU that NVML answers for")
    for gpu in facts.gpus:
        assert gpu.handle.value is True
        assert gpu.memory.value is not None
        assert gpu.event_reasons.value is not None
        silent = [name for name in SIGNALS if getattr(gpu, name).code == "no-answer"]
        assert silent == []
