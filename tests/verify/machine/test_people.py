"""Test all checks on typical machines, and that one cause results in one failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.verify.checks import judge
from envforge.verify.record import Record
from envforge.verify.values import Report, Verdict
from tests.support.nvml_stub import StubMachine, gpu
from tests.verify.machine.scenarios import FABRIC_READY, HEALTHY, SCENARIOS, WSL_WELL, Scenario
from tests.verify.machine.scenes import (
    CHECKS,
    CPU_LOCK,
    CUDA_LOCK,
    DRIVER,
    MAC_LOCK,
    MODULE,
    FakeCalls,
    Scene,
    a100,
    machine,
    pci,
)

# The first cause of a driver that does not answer, and nothing after it, may fail.
SINGLE_CAUSES = ("driver-not-loaded", "nouveau", "driver-silent", "driver-library-mismatch", "container-without-gpus")
GROUPS = {check.id: check.group for check in CHECKS}
OF_THE_GPU = [s for s in SCENARIOS if GROUPS[s.check] not in ("system", "variables", "compatibility")]
Observed = Callable[[Scene], Record]
ON_CPU = Scene(lock=CPU_LOCK)
LAPTOP = replace(
    machine(gpu("NVIDIA GeForce RTX 4060 Laptop GPU", "8.9", 8, pcie_width=8, pcie_width_max=8, persistence=0)),
    lock=None,
)


def _report(scene: Scene, folder: Path, stub: Path) -> Report:
    return judge(scene.record(folder, stub), CHECKS)


def _with(report: Report, *verdicts: Verdict) -> list[str]:
    return [finding.check for finding in report.findings if finding.verdict in verdicts]


@pytest.mark.parametrize(
    "scene",
    [
        Scene(),
        Scene(lock=CPU_LOCK),
        Scene(system="Darwin", architecture="arm64", libc=""),
        Scene(system="Darwin", architecture="arm64", libc="", lock=MAC_LOCK),
        replace(Scene(), files={"/.dockerenv": ""}),
        LAPTOP,
        replace(LAPTOP, lock=CPU_LOCK),
        replace(HEALTHY, lock=None),
        FABRIC_READY,
        WSL_WELL,
    ],
    ids=["none", "none+cpu", "mac", "mac+lock", "ci", "laptop", "laptop+cpu", "server", "dgx", "wsl"],
)
def test_a_machine_that_is_well_fails_nothing(scene: Scene, tmp_path: Path, stub: Path) -> None:
    report = _report(scene, tmp_path, stub)
    assert _with(report, Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN) == []
    assert report.passed(strict=True)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.check in SINGLE_CAUSES], ids=lambda s: s.name)
def test_one_cause_is_one_failure(scenario: Scenario, observed: Observed) -> None:
    report = judge(observed(scenario.scene), CHECKS)
    assert _with(report, Verdict.FAIL, Verdict.UNKNOWN) == [scenario.check]


@pytest.mark.parametrize("scenario", OF_THE_GPU, ids=lambda scenario: f"{scenario.check}: {scenario.name}")
def test_a_lock_for_the_cpu_does_not_fail_for_a_gpu(scenario: Scenario, observed: Observed) -> None:
    record, for_cpu = observed(scenario.scene), observed(ON_CPU)
    assert record.machine is not None
    assert for_cpu.machine is not None
    report = judge(replace(record, machine=replace(record.machine, lock=for_cpu.machine.lock)), CHECKS)
    assert _with(report, Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN) == []


def test_the_login_node_of_a_cluster_is_told_where_the_gpus_are(tmp_path: Path, stub: Path) -> None:
    report = _report(Scene(lock=CUDA_LOCK, files={"/etc/slurm/slurm.conf": ""}), tmp_path, stub)
    (finding,) = [finding for finding in report.findings if finding.check == "gpu-missing"]
    assert (finding.verdict, finding.command) == (Verdict.FAIL, "srun --gres=gpu:1 envforge verify")


@pytest.mark.parametrize("files", [{}, {"/.dockerenv": ""}], ids=["host", "container"])
def test_machine_without_a_gpu_gets_another_build(tmp_path: Path, stub: Path, files: dict[str, str]) -> None:
    report = _report(Scene(lock=CUDA_LOCK, files=files), tmp_path, stub)
    (finding,) = [finding for finding in report.findings if finding.check == "gpu-missing"]
    assert (finding.verdict, finding.command) == (Verdict.FAIL, "envforge explain")


@pytest.mark.parametrize(
    ("lock", "verdict"), [(CUDA_LOCK, Verdict.FAIL), (None, Verdict.WARN)], ids=["CUDA", "no lock"]
)
def test_gpu_of_another_vendor_is_named(tmp_path: Path, stub: Path, lock: Path | None, verdict: Verdict) -> None:
    folder = "/sys/bus/pci/devices/0000:c1:00.0"
    files = {f"{folder}/vendor": "0x1002", f"{folder}/device": "0x74a1", f"{folder}/class": "0x120000"}
    report = _report(Scene(lock=lock, files=files), tmp_path, stub)
    (finding,) = [finding for finding in report.findings if finding.check == "gpu-missing"]
    assert finding.verdict is verdict
    assert finding.observed.startswith("this is an AMD Instinct MI300X; envforge selects builds for NVIDIA and CPU")


def test_a_job_that_was_given_one_gpu_of_two_is_well(tmp_path: Path, stub: Path) -> None:
    one = machine(a100())
    scene = replace(one, files={**one.files, **pci(2)[0]}, environment={"SLURM_JOB_ID": "12"})
    assert _with(_report(scene, tmp_path, stub), Verdict.FAIL, Verdict.UNKNOWN) == []


def test_a_container_that_was_given_one_gpu_of_two_is_well(tmp_path: Path, stub: Path) -> None:
    one = machine(a100())
    scene = replace(one, files={**one.files, **pci(2)[0], "/.dockerenv": ""})
    assert _with(_report(scene, tmp_path, stub), Verdict.FAIL, Verdict.UNKNOWN) == []


def test_wsl_skips_what_the_driver_of_windows_does_not_tell(tmp_path: Path, stub: Path) -> None:
    report = _report(WSL_WELL, tmp_path, stub)
    skipped = _with(report, Verdict.SKIP)
    assert {"row-remap", "recovery-needed", "retired-pages", "pcie-narrow"} <= set(skipped)


def test_an_xid_of_somebody_else_s_gpu_is_a_fact(tmp_path: Path, stub: Path) -> None:
    log = "4,2,6,-;NVRM: Xid (PCI:0000:aa:00): 79, pid=1, GPU has fallen off the bus.\n"
    report = _report(replace(HEALTHY, calls=FakeCalls(kernel_log=log)), tmp_path, stub)
    (finding,) = [finding for finding in report.findings if finding.check == "xid-hardware"]
    assert (finding.verdict, finding.subject) == (Verdict.INFO, "PCI 0000:aa:00")


def test_a_bridge_that_is_not_there_is_no_fault(tmp_path: Path, stub: Path) -> None:
    cards = [gpu("NVIDIA GeForce RTX 3090", "8.6", 24, number, links="0000") for number in (0, 1)]
    report = _report(machine(*cards), tmp_path, stub)
    assert "nvlink-down" in _with(report, Verdict.INFO)
    assert "nvlink-down" not in _with(report, Verdict.WARN)


def test_a_damaged_lock_is_named_and_the_machine_is_judged_all_the_same(tmp_path: Path, stub: Path) -> None:
    damaged = tmp_path / "conda-lock.yml"
    damaged.write_text("version: 1\npackage: [", encoding="utf-8")
    report = _report(replace(HEALTHY, lock=damaged), tmp_path / "scene", stub)
    assert _with(report, Verdict.FAIL) == ["lock-not-installable"]
    assert "ecc-uncorrectable" in _with(report, Verdict.PASS)


def test_every_finding_that_is_not_content_has_what_a_person_needs(tmp_path: Path, stub: Path) -> None:
    scene = replace(
        Scene(lock=CUDA_LOCK, stub=StubMachine(keys=DRIVER, gpus=(a100(rows="0 2 0 1", mig=0, mig_pending=1),))),
        files={**pci(1)[0], **MODULE},
    )
    for finding in _report(scene, tmp_path, stub).findings:
        if finding.verdict in (Verdict.FAIL, Verdict.WARN):
            assert all((finding.observed, finding.wanted, finding.source, finding.why, finding.command)), finding


def test_the_gpu_of_somebody_else_on_a_shared_server_is_a_fact(tmp_path: Path, stub: Path) -> None:
    scene = machine(a100(), a100(1, ecc_uncorrected=3, compute_mode=2))
    alone = replace(scene, environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert _with(_report(alone, tmp_path / "alone", stub), Verdict.FAIL, Verdict.WARN) == []
    both = _report(replace(scene, environment={"CUDA_VISIBLE_DEVICES": "1"}), tmp_path / "both", stub)
    assert _with(both, Verdict.FAIL) == ["ecc-uncorrectable", "compute-mode"]


def test_a_driver_that_answers_needs_no_version_file(tmp_path: Path, stub: Path) -> None:
    scene = replace(HEALTHY, files={path: text for path, text in HEALTHY.files.items() if "module" not in path})
    assert _with(_report(scene, tmp_path, stub), Verdict.FAIL, Verdict.UNKNOWN) == []


def test_hidden_gpus_are_one_failure(tmp_path: Path, stub: Path) -> None:
    scene = replace(HEALTHY, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert _with(_report(scene, tmp_path, stub), Verdict.FAIL, Verdict.UNKNOWN) == ["gpus-hidden"]


def test_a_jetson_is_not_held_for_a_machine_without_a_gpu(tmp_path: Path, stub: Path) -> None:
    files = {
        "/proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin\0",
        "/etc/nv_tegra_release": "# R36\n",
    }
    report = _report(Scene(files=files, architecture="aarch64"), tmp_path, stub)
    assert _with(report, Verdict.FAIL, Verdict.UNKNOWN) == []
    (found,) = [finding for finding in report.findings if finding.check == "ecc-uncorrectable"]
    assert found.observed == "NVML does not report the GPU"


def test_what_is_stated_of_the_machine_does_not_make_its_driver_newer(tmp_path: Path, stub: Path) -> None:
    scene = next(scenario.scene for scenario in SCENARIOS if scenario.check == "driver-too-old")
    stated = replace(scene, environment={"CONDA_OVERRIDE_CUDA": "13.0", "CONDA_OVERRIDE_GLIBC": "2.40"})
    assert "driver-too-old" in _with(_report(stated, tmp_path, stub), Verdict.FAIL)


def test_files_of_gpus_that_are_not_ours_are_a_fact(tmp_path: Path, stub: Path) -> None:
    one = machine(a100())
    scene = replace(one, files={**one.files, "/dev/nvidia1": ""}, calls=FakeCalls(closed=("/dev/nvidia1",)))
    report = _report(scene, tmp_path, stub)
    assert "device-files" in _with(report, Verdict.INFO)
    assert "device-files" not in _with(report, Verdict.FAIL)


def test_a_program_s_cleanup_after_another_error_is_a_fact(tmp_path: Path, stub: Path) -> None:
    log = "4,2,6,-;NVRM: Xid (PCI:0000:10:00): 45, pid=7, Ch 00000008\n"
    report = _report(replace(HEALTHY, calls=FakeCalls(kernel_log=log)), tmp_path, stub)
    assert "xid-application" in _with(report, Verdict.INFO)
    assert "xid-application" not in _with(report, Verdict.WARN)


def test_a_desktop_that_uses_its_gpu_for_the_screen_is_well(tmp_path: Path, stub: Path) -> None:
    screen = machine(
        gpu("NVIDIA GeForce RTX 4060", "8.9", 8, memory_used_bytes=1_200_000_000, pcie_width=0, pcie_width_max=16)
    )
    assert _with(_report(screen, tmp_path, stub), Verdict.FAIL, Verdict.WARN) == []


def test_a_job_without_a_gpu_is_told_to_ask_for_one(tmp_path: Path, stub: Path) -> None:
    report = _report(Scene(lock=CUDA_LOCK, environment={"SLURM_JOB_ID": "12"}), tmp_path, stub)
    (finding,) = [finding for finding in report.findings if finding.check == "gpu-missing"]
    assert "this Slurm job has none" in finding.observed
    assert finding.command == "srun --gres=gpu:1 envforge verify"


def test_gpus_that_are_alike_are_told_their_precision_once(tmp_path: Path, stub: Path) -> None:
    report = _report(machine(a100(), a100(1), gpu("Tesla T4", "7.5", 15, 2)), tmp_path, stub)
    assert [f.subject for f in report.findings if f.check == "precision"] == ["GPU 0, 1", "GPU 2"]
