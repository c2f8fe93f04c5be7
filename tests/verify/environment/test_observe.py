"""Test the environment observer with real processes; only the package ``torch`` is a fake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.verify.environment.facts import EnvironmentFacts, LockedTorch, VisibleGpu
from envforge.verify.environment.observe import locked_torch, observe_environment
from envforge.verify.values import Signal, Verdict
from tests.verify.environment import torches
from tests.verify.environment.records import CHECKS, complaints, findings
from tests.verify.environment.support import situation

LIMIT_S = 20.0
Observe = Callable[..., EnvironmentFacts]


@pytest.fixture
def observe(tmp_path: Path) -> Observe:
    def look(torch: str, *, limit_s: float = LIMIT_S, variables: dict[str, str] | None = None) -> EnvironmentFacts:
        prefix = torches.virtual_environment(tmp_path / "env", torch)
        asked = situation(folder=tmp_path, prefix=prefix, limit_s=limit_s)
        world = replace(asked.world, environment={**asked.world.environment, **(variables or {})})
        return observe_environment(replace(asked, world=world))

    return look


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGILL", "SIGABRT"])
def test_a_torch_that_kills_the_interpreter_is_a_finding(observe: Observe, signal: str) -> None:
    facts = observe(torches.dies_by(signal))
    assert facts.process is not None
    assert facts.process.signal == signal
    found = findings(facts)["torch-import-failed"]
    assert found.verdict is Verdict.FAIL
    assert signal in found.observed
    assert signal in found.why
    assert facts.python.value is not None


def test_a_torch_that_hangs_is_killed_at_the_limit(observe: Observe) -> None:
    facts = observe(torches.HANGS, limit_s=2.0)
    assert facts.process is not None
    assert facts.process.exit_code is None
    assert "did not finish within 2 s" in findings(facts)["torch-import-failed"].observed


def test_a_torch_that_cannot_find_its_library_says_which(observe: Observe) -> None:
    assert "libcudnn.so.9" in findings(observe(torches.RAISES))["torch-import-failed"].observed


def test_an_undefined_symbol_is_explained(observe: Observe) -> None:
    assert "LD_LIBRARY_PATH" in findings(observe(torches.NO_SYMBOL))["torch-import-failed"].why


def test_cuda_that_hangs_keeps_what_was_known_before(observe: Observe) -> None:
    facts = observe(torches.HANGS_IN_CUDA, limit_s=3.0)
    assert facts.torch.value is not None
    assert facts.torch.value.cuda == "13.0"
    assert complaints(facts)["torch-sees-no-gpu"] is Verdict.FAIL


def test_is_available_false_beside_a_driver_is_named_with_its_warning(observe: Observe) -> None:
    facts = observe(torches.CUDA)
    with_driver = replace(facts, driver="550.54.14", machine_gpus=_gpus())
    found = findings(with_driver)["torch-sees-no-gpu"]
    assert found.verdict is Verdict.FAIL
    assert "too old (found version 12040)" in found.observed
    assert "NVIDIA A10G" in found.wanted


def test_a_cpu_wheel_in_the_place_of_a_cuda_one_is_named(observe: Observe) -> None:
    facts = observe(torches.CPU)
    locked = Signal(value=LockedTorch(version="2.13.0", build="torch-2.13.0.whl", cuda="13.0"), source="conda-lock.yml")
    with_lock = replace(facts, locked=locked)
    assert complaints(with_lock)["cpu-build-in-gpu-lock"] is Verdict.FAIL


def test_a_torch_from_pythonpath_is_named(observe: Observe, tmp_path: Path) -> None:
    (tmp_path / "shadow" / "torch").mkdir(parents=True)
    (tmp_path / "shadow" / "torch" / "__init__.py").write_text(torches.CPU, encoding="utf-8")
    facts = observe(torches.CUDA, variables={"PYTHONPATH": str(tmp_path / "shadow")})
    found = findings(facts)["import-isolation"]
    assert found.verdict is Verdict.FAIL
    assert str(tmp_path / "shadow") in found.observed
    assert "PYTHONPATH" in found.observed


def test_a_torch_in_the_current_folder_is_named(observe: Observe, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(torches.CPU, encoding="utf-8")
    assert complaints(observe(torches.CUDA))["import-isolation"] is Verdict.FAIL


def test_a_missing_prefix_is_a_finding(tmp_path: Path) -> None:
    facts = observe_environment(situation(folder=tmp_path, prefix=tmp_path / "gone"))
    assert complaints(facts) == {"environment-missing": Verdict.FAIL}


def test_an_unfinished_prefix_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "env" / ".envforge").mkdir(parents=True)
    facts = observe_environment(situation(folder=tmp_path, prefix=tmp_path / "env"))
    assert facts.state == "unfinished"
    assert complaints(facts) == {"environment-missing": Verdict.FAIL}


def test_a_damaged_journal_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "env" / ".envforge").mkdir(parents=True)
    (tmp_path / "env" / ".envforge" / "journal.json").write_text("{", encoding="utf-8")
    facts = observe_environment(situation(folder=tmp_path, prefix=tmp_path / "env"))
    assert facts.state == "damaged"
    assert complaints(facts) == {"environment-missing": Verdict.FAIL}


def test_a_damaged_lock_is_told_and_nothing_is_guessed(tmp_path: Path) -> None:
    lock = tmp_path / "conda-lock.yml"
    lock.write_text("version: 1\npackage: [", encoding="utf-8")
    signal = locked_torch(lock, "linux-64")
    assert signal.value is None
    assert signal.unreadable


@pytest.mark.slow
def test_the_real_torch_of_this_interpreter_is_sound(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    facts = observe_environment(situation(folder=tmp_path, prefix=Path(sys.prefix)))
    assert complaints(facts) == {}
    assert facts.torch.value is not None
    assert facts.libraries.value
    assert facts.numpy.value is not None
    assert facts.numpy.value.works


def _gpus() -> tuple[VisibleGpu, ...]:
    return (VisibleGpu(index=0, name="NVIDIA A10G", capability="8.6"),)


@pytest.mark.parametrize(
    ("only", "modes"), [("torch-version", ["plain", "isolated"]), ("files-changed", []), ("environment-missing", [])]
)
def test_no_process_is_started_that_no_chosen_check_needs(tmp_path: Path, only: str, modes: list[str]) -> None:
    prefix = torches.virtual_environment(tmp_path / "env", torches.CPU)
    notes = torches.notes_its_commands(prefix)
    facts = observe_environment(situation(folder=tmp_path, prefix=prefix, only=[only]))
    assert notes.read_text(encoding="utf-8").split() == modes
    assert (facts.audit.unreadable == "no selected check needs it") is (only != "files-changed")


def test_checks_need_what_the_observer_knows() -> None:
    assert {need for check in CHECKS for need in check.needs} == {"audit", "python"}
