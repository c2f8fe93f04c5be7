"""Test ``verify train --deep`` on real GPUs: ``python -m pytest -m gpu tests/verify``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from envforge.verify.environment.observe import observe_environment, prefix_state
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.training.observe import observe_training
from envforge.verify.values import Verdict
from tests.templates.conftest import write_project
from tests.verify.environment.records import complaints as complaints_of_environment
from tests.verify.environment.support import situation
from tests.verify.training.records import complaints, findings
from tools.gpu_acceptance.steps import prefix_of_this_python

pytestmark = pytest.mark.gpu
LIMIT_S = 600.0


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingFacts:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    project = write_project(tmp_path_factory.mktemp("project"))
    prefix = prefix_of_this_python(tmp_path_factory.mktemp("prefix") / "env")
    return observe_training(situation(folder=project, project=project, prefix=prefix, depth="deep", limit_s=LIMIT_S))


def is_environment() -> bool:
    """Whether this Python belongs to an environment, and not to the operating system or an image."""
    return prefix_state(Path(sys.prefix))[0] in ("finished", "foreign", "virtual")


def test_a_sound_gpu_fails_nothing(training: TrainingFacts) -> None:
    """But for torch.compile, which needs a C compiler."""
    failed = {name: findings(training)[name].observed for name, v in complaints(training).items() if v is Verdict.FAIL}
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        failed.pop("compile-fails", None)
    assert failed == {}


def test_each_gpu_is_measured_in_a_process_of_its_own(training: TrainingFacts) -> None:
    import torch

    assert [device.device for device in training.devices] == [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    assert all(device.process.is_good for device in training.devices)


def test_amp_is_compared_with_both_kinds_of_fp32(training: TrainingFacts) -> None:
    for device in training.devices:
        assert device.compare.value is not None
        kinds = {run.fp32 for run in device.compare.value.runs}
        modern = int((device.capability or "0").partition(".")[0]) >= 8
        assert kinds == {None, "ieee", *(["tf32"] if modern else [])}
        assert all(run.peak_memory_bytes for run in device.compare.value.runs)
        assert device.models.value is not None
        assert {run.batch for run in device.models.value.runs} == {64, 256}


def test_clocks_are_sampled_while_the_gpu_works(training: TrainingFacts) -> None:
    for device in training.devices:
        assert device.load.value is not None, device.load.unreadable
        assert device.load.value.samples >= 3
        assert device.throughput.value is not None
        assert device.throughput.value.low_tflops > device.throughput.value.fp32_tflops
        assert device.transfer.value is not None


def test_the_environment_of_a_gpu_is_sound(tmp_path: Path, training: TrainingFacts) -> None:
    if not is_environment():
        pytest.skip(f"`{sys.prefix}` is no environment: its libraries come from the whole computer")
    facts = observe_environment(situation(folder=tmp_path, prefix=Path(sys.prefix), limit_s=LIMIT_S))
    assert {name: v for name, v in complaints_of_environment(facts).items() if v is Verdict.FAIL} == {}
