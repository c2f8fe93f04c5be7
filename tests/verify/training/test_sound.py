"""Test the training observer on a sound project, in real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.verify.checks import judge
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.environment.observe import observe_environment
from envforge.verify.record import Record, read_record, record_to_json
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.training.observe import observe_training
from envforge.verify.values import Verdict
from tests.templates.conftest import write_project
from tests.verify.environment.support import NOW, situation
from tests.verify.training.records import CHECKS

PREFIX = Path(sys.prefix)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingFacts:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    project = write_project(tmp_path_factory.mktemp("project"))
    return observe_training(situation(folder=project, project=project, prefix=PREFIX))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentFacts:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("nowhere")
    return observe_environment(situation(folder=folder, prefix=PREFIX))


@pytest.mark.slow
def test_a_sound_project_on_a_cpu_passes_what_was_asked(training: TrainingFacts) -> None:
    report = judge(Record(envforge="0", created_at=NOW, training=training), CHECKS)
    wrong = {
        f.check: f.observed for f in report.findings if f.verdict not in (Verdict.PASS, Verdict.INFO, Verdict.SKIP)
    }
    assert wrong == {}
    assert {f.check for f in report.findings} == {check.id for check in CHECKS}


@pytest.mark.slow
def test_two_processes_on_a_cpu_add_up_by_torchrun(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked = situation(folder=tmp_path, prefix=PREFIX, depth="deep")
    facts = observe_training(replace(asked, needs=frozenset({"collective"})))
    assert facts.collective.value is not None, facts.collective.unreadable
    assert (facts.collective.value.backend, facts.collective.value.sums) == ("gloo", (3.0, 3.0))


@pytest.mark.slow
def test_a_cpu_run_is_never_passed_off_as_a_gpu_run(training: TrainingFacts) -> None:
    assert [device.device for device in training.devices] == ["cpu"]
    report = judge(Record(envforge="0", created_at=NOW, training=training), CHECKS)
    (said,) = [finding for finding in report.findings if finding.check == "trains-on-gpu"]
    assert "on the CPU" in said.observed


@pytest.mark.slow
def test_the_record_survives_json(training: TrainingFacts, environment: EnvironmentFacts) -> None:
    record = Record(envforge="0", created_at=NOW, training=training, environment=environment)
    text = json.dumps(record_to_json(record), allow_nan=False)
    assert read_record(text, "here") == record


@pytest.mark.slow
def test_the_project_stays_as_it_was(training: TrainingFacts, tmp_path: Path) -> None:
    assert training.python is not None
    assert training.devices[0].project.source
    folder = Path(training.devices[0].project.source).parent
    assert not list(folder.rglob("__pycache__"))
    assert not (folder.parent / "runs").exists()
