"""Test processes that crash, hang, or print wrong output: each is a finding, and earlier results are kept."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.base.process import Child, ProcessEnd, marked_lines, run_child
from envforge.machine.world import World
from envforge.verify.training.facts import MEASUREMENTS, DeviceFacts, TrainingFacts
from envforge.verify.training.measurements import Sample, device_facts, floor_of, speed_table, under_load
from envforge.verify.training.observe import measures_of, observe_training
from envforge.verify.values import Cost, Signal, Verdict
from tests.support.nvml_stub import A10G, build_stub, has_compiler, stub_environment
from tests.templates.conftest import PACKAGE, write_project
from tests.verify.environment import torches
from tests.verify.environment.support import situation
from tests.verify.training.records import CHECKS, complaints, findings

assert sys.platform == "linux"

MEASURES = [name for name in MEASUREMENTS if name not in ("device", "project")]
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
    assert "did not finish within 2 s" in found["process-died"].observed
    assert found["matmul-wrong"].verdict is Verdict.UNKNOWN
    assert set(found) == {check.id for check in CHECKS}


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL"])
def test_a_torch_that_crashes_is_named_with_its_signal(train: Callable[..., TrainingFacts], name: str) -> None:
    found = findings(train(torches.dies_by(name)))["process-died"]
    assert name in found.observed
    assert name in found.why


def test_a_torch_that_cannot_be_imported_fails_each_measure_with_its_error(train: Callable[..., TrainingFacts]) -> None:
    found = findings(train(torches.RAISES))["matmul-wrong"]
    assert found.verdict is Verdict.FAIL
    assert "libcudnn.so.9" in found.observed


@pytest.mark.slow
def test_a_crash_in_the_training_keeps_what_was_measured_before(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    path = folder / PACKAGE / "engine" / "run.py"
    text = path.read_text(encoding="utf-8")
    crash = "        self.step += 1\n        import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
    assert "        self.step += 1\n" in text
    path.write_text(text.replace("        self.step += 1\n", crash), encoding="utf-8")
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


@pytest.mark.parametrize("hangs_in", MEASURES)
def test_a_hang_in_any_measure_keeps_what_was_measured_before(hangs_in: str) -> None:
    asked = ("device", *MEASURES)
    before = asked[: asked.index(hangs_in)]
    lines: list[dict[str, Any]] = [{"event": "value", "measure": "device", "value": {"name": "EPYC"}}]
    for name in before[1:]:
        lines += [{"event": "start", "measure": name}, {"event": "raised", "measure": name, "error": f"{name}!"}]
    late = ProcessEnd(seconds=9.0, limit_s=9.0)
    device = device_facts("cpu", asked, late, [*lines, {"event": "start", "measure": hangs_in}])
    assert (device.running, device.name) == (hangs_in, "EPYC")
    said = {name: getattr(device, name).unreadable for name in MEASURES}
    assert {name: said[name] for name in before[1:]} == {name: f"{name}!" for name in before[1:]}
    assert said[hangs_in] == "the process did not finish within 9 s and was killed in this measurement"
    after = set(MEASURES) - {*before, hangs_in}
    assert {said[name] for name in after} <= {"not reached: the process did not finish within 9 s and was killed"}
    found = findings(TrainingFacts(python="python", devices=(device,)))["process-died"]
    assert f"during `{hangs_in}`" in found.observed
    assert found.command == "envforge verify train --limit 36"


def test_lines_said_before_the_time_ran_out_are_kept(tmp_path: Path) -> None:
    program = "import time; print('@envforge {\"said\": 1}', flush=True); time.sleep(600)"
    end, lines = run_child(child(tmp_path, program, limit_s=1.5))
    assert (end.is_late, lines) == (True, ({"said": 1},))


def test_a_compiler_that_takes_longer_than_the_limit_is_unknown_and_spoils_nothing(
    project: Path, tmp_path: Path
) -> None:
    """The main process ends; the one of torch.compile does not: that is no fault of anybody's, and told as it is."""
    torch = "import sys, time\nif 'compiled' in sys.argv[-1]: time.sleep(600)\nraise ImportError('no libgomp.so.1')\n"
    prefix = torches.virtual_environment(tmp_path / "env", torch)
    chosen = situation(
        folder=project, project=project, prefix=prefix, depth="deep", limit_s=3.0, only=["compile-fails"]
    )
    (device,) = observe_training(chosen).devices
    assert device.process.is_good
    assert device.compiled.unreadable == "the process did not finish within 3 s and was killed in this measurement"
    importable = replace(device, project=Signal(value=PACKAGE))
    found = findings(TrainingFacts(python="python", devices=(importable,)))["compile-fails"]
    assert (found.verdict, found.fails) == (Verdict.UNKNOWN, False)
    assert "did not finish within 3 s" in found.observed
    assert found.command == "envforge verify --only compile-fails --limit 480"


def test_a_line_that_was_cut_off_does_not_count() -> None:
    text = '@envforge {"event": "start"}\nchatter\n@envforge {"event": "val'
    assert marked_lines(text) == [{"event": "start"}]


def test_what_a_process_says_wrongly_is_unreadable_and_not_a_pass() -> None:
    lines = [{"event": "value", "measure": "matmul", "value": {"dtype": "bf16", "errors": "none"}}]
    device = device_facts("cpu", ("matmul",), GOOD, lines)
    assert device.matmul.value is None
    assert "invalid output" in (device.matmul.unreadable or "")


STARTS_ANOTHER = (
    "import subprocess, sys, time; other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print('@envforge {\"pid\": %d}' % other.pid, flush=True); "
)


def child(folder: Path, program: str, limit_s: float = 30.0) -> Child:
    command = (sys.executable, "-c", program)
    return Child(command=command, environment={"PATH": "/usr/bin:/bin"}, folder=folder, limit_s=limit_s)


def has_ended(pid: int, within_s: float) -> bool:
    """Whether a process has ended, or does so within that time: its end makes its descriptor readable."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("then", "limit_s", "exit_code"), [("", 30.0, 0), ("time.sleep(600)", 1.5, None)])
def test_what_a_process_has_started_ends_with_it(
    tmp_path: Path, then: str, limit_s: float, exit_code: int | None
) -> None:
    end, lines = run_child(child(tmp_path, STARTS_ANOTHER + then, limit_s))
    (said,) = lines
    assert end.exit_code == exit_code
    assert has_ended(said["pid"], 10.0)


@pytest.mark.parametrize(("environment", "is_killed"), [("None", True), ("{}", False)])
def test_process_in_another_session_ends_with_its_starter(tmp_path: Path, environment: str, is_killed: bool) -> None:
    program = STARTS_ANOTHER.replace("time.sleep(600)'", "time.sleep(60)'").replace(
        "'])", f"'], start_new_session=True, env={environment})"
    )
    # while a process is being started, Linux shows the variables of its parent, or none
    end, lines = run_child(child(tmp_path, program + "time.sleep(0.5)\n"))
    assert end.is_good
    assert has_ended(lines[0]["pid"], 10.0 if is_killed else 0.0) == is_killed
    with contextlib.suppress(ProcessLookupError):
        os.kill(lines[0]["pid"], signal.SIGKILL)


CHAIN = """
import os, time
if os.fork() == 0:
    os.setsid()
    for _ in range(300):  # slowly: each one is a process entry until its new parent reaps it
        if os.fork():
            os._exit(0)
        time.sleep(0.01)
    os.execve("/bin/sleep", ["sleep", "60"], {})
time.sleep(0.3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_chain_of_forks_cannot_outlive_verify_unseen() -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from envforge.base.process import Child, adopt_orphans, run_child, survivors\n"
        "adopt_orphans()\n"
        f"child = Child(command=(sys.executable, '-c', {CHAIN!r}), environment={{}}, folder=Path('.'), limit_s=60)\n"
        "run_child(child)\n"
        "children = [each.read_text().split() for each in Path('/proc/self/task').glob('*/children')]\n"
        "print(sum(map(len, children)), len(survivors()))\n"  # among the children, those that have exited
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    left, reported = map(int, done.stdout.split())
    assert left == 0 or reported


def test_process_without_environment_cannot_outlive_verify(tmp_path: Path) -> None:
    started = STARTS_ANOTHER.replace("'])", "'], start_new_session=True, env={})")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from envforge.base.process import Child, adopt_orphans, run_child\n"
        "adopt_orphans()\n"
        f"child = Child(command=(sys.executable, '-c', {started!r}), environment={{}}, folder=Path('.'), limit_s=60)\n"
        "print(run_child(child)[1][0]['pid'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert has_ended(int(done.stdout), 10.0)


def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path) -> None:
    """Observers run in threads: where the main thread is interrupted, the interpreter's end ends the children."""
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from envforge.base.process import Child, run_child\n"
        f"started = {STARTS_ANOTHER + 'time.sleep(600)'!r}\n"
        "heard = threading.Event()\n"
        "def hear(line): print(line['pid'], flush=True); heard.set()\n"
        "command = (sys.executable, '-c', started)\n"
        "child = Child(command=command, environment={}, folder=Path('.'), limit_s=600, hear=hear)\n"
        "threading.Thread(target=run_child, args=(child,), daemon=True).start()\n"
        "heard.wait(60)\n"
        "raise KeyboardInterrupt\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert has_ended(int(done.stdout), 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_process_in_another_session_does_not_outlive_a_signal(number: int, code: int) -> None:
    started = STARTS_ANOTHER.replace("'])", "'], start_new_session=True, env={})") + "time.sleep(600)"
    program = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from envforge.base.process import Child, adopt_orphans, ending_children, run_child\n"
        "adopt_orphans()\n"
        "heard = threading.Event()\n"
        "def hear(line): print(line['pid'], flush=True); heard.set()\n"
        f"command = (sys.executable, '-c', {started!r})\n"
        "child = Child(command=command, environment={}, folder=Path('.'), limit_s=600, hear=hear)\n"
        "threading.Thread(target=run_child, args=(child,), daemon=True).start()\n"
        "heard.wait(60)\n"
        "with ending_children():\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode if done.returncode > 0 else 1) == code
    assert has_ended(int(done.stdout), 10.0)


def test_output_without_end_is_read_and_not_kept(tmp_path: Path) -> None:
    program = "print('@envforge [1]'); [print('x' * 10**6) for _ in range(40)]; print('@envforge {}')"
    program = program.replace("[1]", '{"a": 1}')
    end, lines = run_child(child(tmp_path, program))
    assert end.is_good
    assert lines == ({"a": 1},)


def test_every_measure_is_needed_by_a_check() -> None:
    assert {need for check in CHECKS for need in check.needs} == {"collective", *MEASUREMENTS}
    assert [check.id for check in CHECKS if not check.needs] == []


@pytest.mark.parametrize(
    ("only", "asked"),
    [
        ("trains-on-gpu", [["device"]]),
        ("matmul-wrong", [["device", "matmul"]]),
        ("project-not-importable", [["device", "project"]]),
        ("scaler-no-step", [["device", "project", "learning", "scaler"]]),
        ("resume-differs", [["device", "project", "repeat"]]),
        ("compile-fails", [["device", "project"], ["compiled"]]),
        ("model-speed", [["device"]]),  # on a CPU they are not measured
        ("speed-floor", [["device"]]),
    ],
)
def test_the_process_is_asked_for_what_the_chosen_check_needs_and_no_more(
    project: Path, tmp_path: Path, only: str, asked: list[list[str]]
) -> None:
    prefix = torches.virtual_environment(tmp_path / "env", torches.RAISES)
    notes = torches.notes_its_commands(prefix)
    depth: Cost = "deep" if asked[1:] else "default"
    observe_training(situation(folder=project, project=project, prefix=prefix, depth=depth, only=[only]))
    assert [json.loads(line)["measures"] for line in notes.read_text(encoding="utf-8").splitlines()] == asked


def test_where_only_the_all_reduce_is_chosen_nothing_is_trained(project: Path, tmp_path: Path) -> None:
    prefix = torches.virtual_environment(tmp_path / "env", torches.RAISES)
    notes = torches.notes_its_commands(prefix)
    chosen = situation(folder=project, project=project, prefix=prefix, depth="deep", only=["all-reduce-wrong"])
    facts = observe_training(chosen)
    assert notes.read_text(encoding="utf-8") == "gloo\n"
    assert facts.devices == ()
    assert findings(facts)["all-reduce-wrong"].verdict is Verdict.FAIL


def test_each_measure_is_told_when_it_begins_and_when_it_fails(project: Path, tmp_path: Path) -> None:
    said: list[str] = []
    prefix = torches.virtual_environment(tmp_path / "env", torches.RAISES)
    observe_training(situation(folder=project, project=project, prefix=prefix, depth="fast", say=said.append))
    assert said[:3] == [
        "cpu 1/4: properties of the device",
        "cpu: properties of the device: failed",
        "cpu 2/4: matrix products compared with float64",
    ]


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


def test_facts_of_a_device_have_a_field_for_each_measure() -> None:
    device = DeviceFacts(device="cpu", is_gpu=False, process=GOOD, asked=())
    assert all(hasattr(device, name) for name in MEASURES)
