"""The real observer with processes that crash, hang or lie: each a finding, and what was known before stays."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from envforge.probe import World
from envforge.verify.environment.facts import ProcessEnd
from envforge.verify.environment.process import Child, marked_lines, run_child
from envforge.verify.training.checks import CHECKS
from envforge.verify.training.facts import DeviceFacts, TrainingFacts
from envforge.verify.training.floors import floor_of, speed_table
from envforge.verify.training.lines import MEASURES, device_facts
from envforge.verify.training.needs import NEEDS
from envforge.verify.training.observe import measures_of, observe_training, wanted_measures
from envforge.verify.training.sampler import Sample, sampler_command, under_load
from envforge.verify.values import Verdict
from tests.support.nvml_stub import A10G, build_stub, has_compiler, stub_environment
from tests.template.conftest import PACKAGE, write_project
from tests.verify.environment import torches
from tests.verify.environment.support import situation
from tests.verify.training.records import complaints, findings

GOOD = ProcessEnd(seconds=1.0, exit_code=0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def train(project: Path, tmp_path: Path) -> Callable[..., TrainingFacts]:
    def run(torch: str, *, limit_s: float = 20.0) -> TrainingFacts:
        prefix = torches.virtual_environment(tmp_path / "env", torch)
        return observe_training(situation(folder=project, project=project, prefix=prefix, limit_s=limit_s))

    return run


def test_a_torch_that_hangs_is_killed_and_the_report_is_whole(train: Callable[..., TrainingFacts]) -> None:
    facts = train(torches.HANGS, limit_s=2.0)
    (device,) = facts.devices
    assert (device.process.exit_code, device.running) == (None, "device")
    found = findings(facts)
    assert found["process-died"].verdict is Verdict.FAIL
    assert "did not end within 2 s" in found["process-died"].observed
    assert found["matmul-wrong"].verdict is Verdict.UNKNOWN
    assert set(found) == {check.id for check in CHECKS}


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGILL"])
def test_a_torch_that_crashes_is_named_with_its_signal(train: Callable[..., TrainingFacts], signal: str) -> None:
    found = findings(train(torches.dies_by(signal)))["process-died"]
    assert signal in found.observed
    assert signal in found.why


def test_a_torch_that_cannot_be_imported_fails_each_measure_with_its_error(
    train: Callable[..., TrainingFacts],
) -> None:
    found = findings(train(torches.RAISES))["matmul-wrong"]
    assert found.verdict is Verdict.FAIL
    assert "libcudnn.so.9" in found.observed


@pytest.mark.slow
def test_a_crash_in_the_training_keeps_what_was_measured_before(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    path = folder / PACKAGE / "training.py"
    text = path.read_text(encoding="utf-8")
    crash = "        self.update += 1\n        import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
    assert "        self.update += 1\n" in text
    path.write_text(text.replace("        self.update += 1\n", crash), encoding="utf-8")
    facts = observe_training(situation(folder=folder, project=folder, prefix=Path(sys.prefix)))
    (device,) = facts.devices
    assert device.matmul.value is not None
    assert device.running == "learning"
    found = findings(facts)
    assert "during `learning`" in found["process-died"].observed
    assert "SIGSEGV" in found["process-died"].observed
    assert found["matmul-wrong"].verdict is Verdict.PASS


@pytest.mark.skipif(not has_compiler(), reason="the stub of NVML needs gcc")
def test_a_torch_that_sees_no_gpu_beside_a_driver_is_named_with_its_reason(project: Path, tmp_path: Path) -> None:
    prefix = torches.virtual_environment(tmp_path / "env", torches.CUDA)
    asked = situation(folder=project, project=project, prefix=prefix, limit_s=60.0)
    stub = stub_environment(build_stub(tmp_path / "lib"), A10G.write(tmp_path / "machine"))
    root = tmp_path / "root"
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("535.216.01\n", encoding="utf-8")
    world = replace(World.here({**asked.world.environment, **stub}), root=root)
    facts = observe_training(replace(asked, world=world))
    assert [gpu.name for gpu in facts.machine_gpus] == ["NVIDIA A10G"]
    found = findings(facts)["trains-on-gpu"]
    assert found.verdict is Verdict.FAIL
    assert "is_available() is False" in found.observed
    assert "too old (found version 12040)" in found.observed
    assert "NVIDIA A10G" in found.observed


def test_without_an_environment_nothing_is_trained_and_it_says_so(project: Path, tmp_path: Path) -> None:
    facts = observe_training(situation(folder=project, project=project, prefix=tmp_path / "gone"))
    assert facts.devices == ()
    assert complaints(facts) == {"trains-on-gpu": Verdict.UNKNOWN}


def test_a_project_of_another_kind_gets_its_kernels_measured(
    train: Callable[..., TrainingFacts], tmp_path: Path
) -> None:
    prefix = torches.virtual_environment(tmp_path / "env", torches.RAISES)
    facts = observe_training(situation(folder=tmp_path, project=tmp_path, prefix=prefix))
    assert "project" not in facts.devices[0].asked
    assert "no envforge.toml" in findings(facts)["project-not-importable"].observed


def test_a_line_that_was_cut_off_does_not_count() -> None:
    text = '@envforge {"event": "start"}\nchatter\n@envforge {"event": "val'
    assert marked_lines(text) == [{"event": "start"}]


def test_what_a_process_says_wrongly_is_unreadable_and_not_a_pass() -> None:
    lines = [{"event": "value", "measure": "matmul", "value": {"dtype": "bf16", "errors": "none"}}]
    device = device_facts("cpu", ("matmul",), GOOD, lines)
    assert device.matmul.value is None
    assert "cannot be read" in (device.matmul.unreadable or "")


def test_children_of_a_process_end_with_it(tmp_path: Path) -> None:
    program = (
        "import os, subprocess; print('@envforge {\"pid\": %d}' % subprocess.Popen(['sleep', '600']).pid, flush=True)"
    )
    child = Child(command=(sys.executable, "-c", program), environment={}, folder=tmp_path, limit_s=2.0)
    end, lines = run_child(replace(child, environment={"PATH": "/usr/bin:/bin"}))
    assert lines
    state = Path(f"/proc/{lines[0]['pid']}/stat")
    assert not state.exists() or " Z " in state.read_text(encoding="utf-8")
    assert end.exit_code is None  # the grandchild held the pipe


def test_every_measure_is_known_to_the_checks() -> None:
    assert {need for needs in NEEDS.values() for need in needs} == set(MEASURES)
    without = {"trains-on-gpu", "process-died", "project-not-importable", "low-precision", "amp-speed"}
    assert {check.id for check in CHECKS} - set(NEEDS) <= {*without, "all-reduce-wrong"}
    assert set(NEEDS) <= {check.id for check in CHECKS}


def test_only_the_measures_of_the_chosen_checks_are_made(tmp_path: Path) -> None:
    asked = replace(situation(folder=tmp_path, prefix=None), only=frozenset({"scaler-no-step"}))
    possible = measures_of("default", has_project=True, on_gpu=False)
    assert wanted_measures(asked, possible) == ("device", "project", "learning", "scaler")


def test_a_fast_run_trains_nothing() -> None:
    assert "learning" not in measures_of("fast", has_project=True, on_gpu=True)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
    ],
)
def test_names_of_the_driver_find_their_row(name: str, model: str) -> None:
    row = floor_of(name).value
    assert row is not None
    assert row.model == model
    assert 0 < row.floor_tflops < row.reference_tflops


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A10G", "NVIDIA A1000"])
def test_another_model_with_a_similar_name_finds_none(name: str) -> None:
    assert floor_of(name).value is None


def test_a_slice_gets_its_share() -> None:
    whole, part = floor_of("NVIDIA A100-SXM4-40GB").value, floor_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb").value
    assert whole is not None
    assert part is not None
    assert part.floor_tflops == pytest.approx(whole.floor_tflops / 7)
    assert "1/7" in part.model


def test_every_row_of_the_table_has_a_source_and_a_date() -> None:
    for _, row in speed_table():
        assert row.source
        assert row.checked.startswith("20")


def test_only_samples_under_load_and_of_that_gpu_count() -> None:
    samples = [
        Sample(at=1.0, uuid="GPU-aa", values={"reasons": 1, "sm_clock_mhz": 200}),
        Sample(at=5.0, uuid="GPU-aa", values={"reasons": 0x44, "sm_clock_mhz": 900, "pcie_generation": 4}),
        Sample(at=6.0, uuid="GPU-aa", values={"reasons": 0x4, "sm_clock_mhz": 950}),
        Sample(at=5.0, uuid="GPU-bb", values={"reasons": 0x8, "sm_clock_mhz": 100}),
    ]
    load = under_load(samples, "aa", [(4.0, 7.0)]).value
    assert load is not None
    assert load.samples == 2
    assert load.reasons == {"software power cap": 2, "hardware thermal slowdown": 1}
    assert load.sm_clock_mhz == 925
    assert load.pcie_generation == 4


def test_no_sample_under_load_is_unreadable() -> None:
    sample = Sample(at=1.0, uuid="GPU-aa", values={})
    assert under_load([sample], "aa", [(4.0, 7.0)]).unreadable
    assert under_load([], "aa", [(4.0, 7.0)]).unreadable
    assert under_load([sample], "aa", []).unreadable


@pytest.mark.skipif(not has_compiler(), reason="the stub of NVML needs gcc")
def test_the_sampler_reads_nvml_and_leaves_out_what_it_does_not_have(tmp_path: Path) -> None:
    folder = build_stub(tmp_path / "lib")
    variables = stub_environment(folder, A10G.write(tmp_path / "machine"))
    with subprocess.Popen(sampler_command(), env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    (sample,) = marked_lines(line)
    assert sample["uuid"].startswith("GPU-")
    assert all(isinstance(value, int) for value in sample["values"].values())


def test_facts_of_a_device_have_a_field_for_each_measure() -> None:
    device = DeviceFacts(device="cpu", is_gpu=False, process=GOOD, asked=())
    assert all(hasattr(device, name) for name in MEASURES)
