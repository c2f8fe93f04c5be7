"""Test clocks, throttle reasons, power, and PCIe under load, with the real sampler and the stub of NVML."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.machine.world import World
from envforge.verify.training.facts import DeviceFacts, LoadFacts
from envforge.verify.training.measurements import sampler_command
from envforge.verify.training.observe import observe_training
from envforge.verify.values import Finding, Verdict
from tests.support.nvml_stub import HEALTHY, StubGpu, StubMachine, build_stub, gpu, has_compiler, stub_environment
from tests.verify.environment.support import situation
from tests.verify.training.records import LOAD, findings, training
from tests.verify.training.working import written_to

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the stub of NVML needs gcc")
DRIVER = {"driver_version": "580.126.09", "nvml_version": "13.580.126.09", "cuda": 13000, "libcuda": 13000}
AT_WORK: dict[str, object] = {
    **HEALTHY,
    "event_reasons": 0x4,
    "clock": 1350,
    "power_mw": 395000,
    "temperature": 64,
    "pcie_generation": 4,
}
CHECKS = ("speed-floor", "throttled-under-load", "slow-copies", "trains-on-gpu")


def at_work(number: int, **more: object) -> StubGpu:
    return gpu("NVIDIA A100-SXM4-40GB", "8.0", 40, number, **{**AT_WORK, **more})


def without(number: int, *keys: str) -> StubGpu:
    known = at_work(number)
    return replace(known, keys={key: value for key, value in known.keys.items() if key not in keys})


HEALTHY_GPU, HOT, NARROW, OLD_LINK, SILENT, OLD_DRIVER = range(6)
GPUS = (
    at_work(HEALTHY_GPU),
    at_work(HOT, event_reasons=0x48, clock=405, power_mw=120000, temperature=92),
    at_work(NARROW, pcie_width=4),
    at_work(OLD_LINK, pcie_generation=1),
    without(SILENT, "event_reasons", "clock", "power_mw", "pcie_width", "pcie_generation"),
    at_work(OLD_DRIVER, event_reasons=0x80, **{"fail nvmlDeviceGetCurrentClocksEventReasons": 13}),
)
TFLOPS = {HOT: 60.0}
COPIED = {NARROW: 6.5, OLD_LINK: 3.4}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeviceFacts, ...]:
    """What the real observer says of a machine with one GPU of each kind."""
    folder = tmp_path_factory.mktemp("load")
    stub = StubMachine(keys=DRIVER, gpus=GPUS).write(folder / "machine")
    work = [
        {
            "name": one.name,
            "uuid": one.keys["uuid"],
            "low_tflops": TFLOPS.get(number, 240.0),
            "copied": COPIED.get(number, 25.0),
        }
        for number, one in enumerate(GPUS)
    ]
    prefix = written_to(folder / "env", work)
    asked = situation(folder=folder, prefix=prefix, limit_s=60.0, only=CHECKS)
    (folder / "root/sys/module/nvidia").mkdir(parents=True)
    (folder / "root/sys/module/nvidia/version").write_text("580.126.09\n", encoding="utf-8")
    variables = {**asked.world.environment, **stub_environment(build_stub(folder / "lib"), stub)}
    return observe_training(replace(asked, world=replace(World.here(variables), root=folder / "root"))).devices


def load_of(device: DeviceFacts) -> LoadFacts:
    assert device.load.value is not None, device.load.unreadable
    return device.load.value


def said_of(device: DeviceFacts) -> dict[str, Finding]:
    return {name: found for name, found in findings(training(device)).items() if name in CHECKS}


def test_every_gpu_was_sampled_while_it_worked(devices: tuple[DeviceFacts, ...]) -> None:
    assert [device.device for device in devices] == [f"cuda:{number}" for number in range(len(GPUS))]
    assert [load_of(device).samples >= 2 for device in devices] == [True] * len(GPUS)


def test_all_that_nvml_tells_under_load_is_in_the_record(devices: tuple[DeviceFacts, ...]) -> None:
    load = load_of(devices[HEALTHY_GPU])
    assert load == replace(LOAD, samples=load.samples, reasons={"software power cap": load.samples})


def test_a_healthy_gpu_at_its_power_limit_passes(devices: tuple[DeviceFacts, ...]) -> None:
    found = said_of(devices[HEALTHY_GPU])
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(CHECKS, Verdict.PASS)
    assert "1350 of 1410 MHz, 395 of 400 W, 64 °C" in found["throttled-under-load"].observed


def test_a_throttled_card_is_called_by_name_with_its_reasons(devices: tuple[DeviceFacts, ...]) -> None:
    found = said_of(devices[HOT])
    throttled, slow = found["throttled-under-load"], found["speed-floor"]
    assert (throttled.verdict, slow.verdict) == (Verdict.WARN, Verdict.FAIL)
    assert throttled.subject == slow.subject == "cuda:1 NVIDIA A100-SXM4-40GB"
    assert "hardware slowdown in" in throttled.observed
    assert "hardware thermal slowdown in" in throttled.observed
    assert "405 of 1410 MHz, 120 of 400 W, 92 °C" in throttled.observed
    assert "throttled by hardware slowdown, hardware thermal slowdown" in slow.observed
    assert "124.8 TFLOPS for A100" in slow.wanted


def test_lanes_that_are_missing_under_load_are_named(devices: tuple[DeviceFacts, ...]) -> None:
    found = said_of(devices[NARROW])["slow-copies"]
    assert found.verdict is Verdict.WARN
    assert found.observed.startswith("4 of 16 PCIe lanes under load; 6.5 GB/s to the GPU")


def test_a_link_that_stays_at_an_old_generation_under_load_is_named(devices: tuple[DeviceFacts, ...]) -> None:
    found = said_of(devices[OLD_LINK])["slow-copies"]
    assert (found.verdict, found.observed.partition(";")[0]) == (Verdict.WARN, "PCIe generation 1 of 4 under load")


def test_what_nvml_does_not_tell_is_unknown_and_no_pass(devices: tuple[DeviceFacts, ...]) -> None:
    load, found = load_of(devices[SILENT]), said_of(devices[SILENT])
    assert (load.reasons, load.sm_clock_mhz, load.power_w, load.pcie_width) == (None, None, None, None)
    assert found["throttled-under-load"].verdict is Verdict.UNKNOWN
    assert found["slow-copies"].verdict is Verdict.INFO
    assert "PCIe link is unknown" in found["slow-copies"].observed


def test_an_old_driver_is_asked_under_the_old_name(devices: tuple[DeviceFacts, ...]) -> None:
    assert load_of(devices[OLD_DRIVER]).reasons == {"hardware power brake": load_of(devices[OLD_DRIVER]).samples}


@pytest.mark.parametrize("fault", [15, "hang"])
def test_a_gpu_that_is_lost_or_hangs_does_not_hide_the_one_before_it(tmp_path: Path, fault: Any) -> None:
    """A lost GPU is left out; of one that hangs nothing comes, and of the one before it what was read."""
    broken = at_work(1, **{("fail nvmlDeviceGetPowerUsage" if fault == "hang" else "fail nvmlDeviceGetUUID"): fault})
    machine = StubMachine(keys=DRIVER, gpus=(at_work(0), broken)).write(tmp_path / "machine")
    variables = stub_environment(build_stub(tmp_path / "lib"), machine)
    with subprocess.Popen(sampler_command(), env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    said = json.loads(line.removeprefix("@envforge "))
    assert (said["uuid"], said["values"]["power_mw"]) == (at_work(0).keys["uuid"], 395000)


def test_the_sampling_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Where envforge is killed, nothing goes on asking the driver."""
    variables = stub_environment(
        build_stub(tmp_path / "lib"), StubMachine(keys=DRIVER, gpus=(at_work(0),)).write(tmp_path / "m")
    )
    starts = "import subprocess, sys; subprocess.Popen(sys.argv[1:]); sys.stdin.readline()"
    command = [sys.executable, "-c", starts, *sampler_command()]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("@envforge ")
        parent.kill()
        assert all(line.startswith("@envforge ") for line in parent.stdout)  # to its end, which comes
