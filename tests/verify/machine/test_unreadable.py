"""Test that an unreadable signal never passes.

It is UNKNOWN, or SKIP if the machine lacks the part or the user lacks permission.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.machine.driver_child import SIGNALS, SOURCES
from envforge.machine.world import kernel_records
from envforge.verify.checks import judge
from envforge.verify.machine.observe import parse_xids
from envforge.verify.record import Record
from envforge.verify.values import Finding, Report, Verdict
from tests.verify.machine.scenarios import HEALTHY
from tests.verify.machine.scenes import CHECKS, FakeCalls, Scene, a100, findings, machine

# The checks that judge one signal of each GPU, and the NVML call that is told to fail.
OF_SIGNALS = {
    "gpu-lost": "nvmlDeviceGetHandleByIndex_v2",
    "mig-unusable": "nvmlDeviceGetMigMode",
    "recovery-needed": "nvmlDeviceGetFieldValues",
    "ecc-uncorrectable": "nvmlDeviceGetTotalEccErrors",
    "ecc-mode": "nvmlDeviceGetEccMode",
    "row-remap": "nvmlDeviceGetRemappedRows",
    "retired-pages": "nvmlDeviceGetRetiredPages",
    "fabric-not-ready": "nvmlDeviceGetGpuFabricInfoV",
    "throttled": "nvmlDeviceGetCurrentClocksEventReasons",
    "power-capped": "nvmlDeviceGetEnforcedPowerLimit",
    "clocks-lowered": "nvmlDeviceGetApplicationsClock",
    "pcie-narrow": "nvmlDeviceGetCurrPcieLinkWidth",
    "nvlink-down": "nvmlDeviceGetNvLinkState",
    "persistence-off": "nvmlDeviceGetPersistenceMode",
    "gpu-busy": "nvmlDeviceGetMemoryInfo",
    "compute-mode": "nvmlDeviceGetComputeMode",
}
Programs = dict[tuple[str, ...], tuple[int, str]]
FAILS_ALL = {f"fail {call}": 10 for call in OF_SIGNALS.values()}
NOT_SUPPORTED = {f"fail {call}": 3 for call in OF_SIGNALS.values() if "Handle" not in call}
NO_PERMISSION = {f"fail {call}": 4 for call in OF_SIGNALS.values() if "Handle" not in call}


def _verdicts(record: Record, check: str) -> set[Verdict]:
    return {finding.verdict for finding in findings(record, check)}


def _judged(scene: Scene, folder: Path, stub: Path) -> Report:
    return judge(scene.record(folder, stub), CHECKS)


def _by_check(report: Report) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    return found


def test_every_signal_has_a_source() -> None:
    assert set(SOURCES) == {"handle", *SIGNALS}


def test_a_call_that_fails_leaves_its_checks_unknown(tmp_path: Path, stub: Path) -> None:
    calls = {key: code for key, code in FAILS_ALL.items() if "Handle" not in key}
    record = machine(a100(**calls)).record(tmp_path, stub)
    unknown = {check for check in OF_SIGNALS if _verdicts(record, check) == {Verdict.UNKNOWN}}
    assert unknown == set(OF_SIGNALS) - {"gpu-lost"}
    assert not judge(record, CHECKS).passed()


def test_unknown_format_of_nvidia_smi_is_not_a_missing_gpu(tmp_path: Path, stub: Path) -> None:
    programs = {("nvidia-smi", "-q", "-x"): (0, "<html>"), ("nvidia-smi",): (0, "GPU 0 is fine\n")}
    report = _judged(Scene(programs=programs), tmp_path, stub)
    assert {finding.verdict for finding in _by_check(report)["gpu-missing"]} == {Verdict.UNKNOWN}
    assert _by_check(report)["gpu-lost"][0].observed == "the driver does not report its GPUs: see `gpu-missing`"
    assert not report.passed()


@pytest.mark.parametrize("calls", [NOT_SUPPORTED, NO_PERMISSION], ids=["not supported", "no permission"])
def test_a_gpu_without_the_signal_or_a_user_without_the_right_is_a_skip(
    calls: dict[str, int], tmp_path: Path, stub: Path
) -> None:
    record = machine(a100(**calls)).record(tmp_path, stub)
    skipped = {check for check in OF_SIGNALS if _verdicts(record, check) == {Verdict.SKIP}}
    assert skipped == set(OF_SIGNALS) - {"gpu-lost"}


def test_a_gpu_whose_handle_cannot_be_had_passes_nothing(tmp_path: Path, stub: Path) -> None:
    record = machine(a100(), a100(1, **{"fail nvmlDeviceGetHandleByIndex_v2": 10})).record(tmp_path, stub)
    for check in OF_SIGNALS:
        assert {f.verdict for f in findings(record, check) if f.subject == "GPU 1"} == {Verdict.UNKNOWN}, check


@pytest.mark.parametrize("end", ["hang", "crash"])
def test_a_signal_that_hangs_or_crashes_leaves_those_before_it(end: str, tmp_path: Path, stub: Path) -> None:
    scene = machine(a100(signals={"fail nvmlDeviceGetRemappedRows": end}), timeout_s=3.0)
    record = scene.record(tmp_path, stub)
    assert _verdicts(record, "ecc-uncorrectable") == {Verdict.PASS}
    assert _verdicts(record, "row-remap") == {Verdict.UNKNOWN}
    assert _verdicts(record, "compute-mode") == {Verdict.UNKNOWN}
    (finding,) = findings(record, "row-remap")
    assert "did not respond in time" in finding.observed
    assert finding.fails


def test_an_older_driver_is_asked_by_the_older_name(tmp_path: Path, stub: Path) -> None:
    scene = machine(a100(event_reasons=0x20, **{"fail nvmlDeviceGetCurrentClocksEventReasons": 13}))
    (finding,) = findings(scene.record(tmp_path, stub), "throttled")
    assert (finding.verdict, "software thermal slowdown" in finding.observed) == (Verdict.WARN, True)


def test_the_kernel_log_without_permission_is_a_skip(tmp_path: Path, stub: Path) -> None:
    scene = replace(HEALTHY, calls=FakeCalls(kernel_log=PermissionError(1, "Operation not permitted")))
    record = scene.record(tmp_path, stub)
    for check in ("xid-hardware", "xid-application"):
        (finding,) = findings(record, check)
        assert finding.verdict is Verdict.SKIP
        assert "Operation not permitted" in finding.observed


def test_an_empty_journal_of_a_user_without_rights_is_no_pass(tmp_path: Path, stub: Path) -> None:
    refused = FakeCalls(kernel_log=PermissionError(1, "Operation not permitted"))
    journal = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=cat")
    answers: Programs = {(*journal, "--lines=1"): (0, ""), (*journal, "--grep=NVRM: Xid"): (1, "")}
    record = replace(HEALTHY, calls=refused, programs=answers).record(tmp_path, stub)
    assert _verdicts(record, "xid-hardware") == {Verdict.SKIP}


def test_the_journal_is_read_where_the_kernel_refuses(tmp_path: Path, stub: Path) -> None:
    refused = FakeCalls(kernel_log=PermissionError(1, "Operation not permitted"))
    journal = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=cat")
    line = "NVRM: Xid (PCI:0000:11:00): 48, pid=1, DBE\n"
    answers: Programs = {(*journal, "--lines=1"): (0, line), (*journal, "--grep=NVRM: Xid"): (0, line)}
    record = replace(HEALTHY, calls=refused, programs=answers).record(tmp_path, stub)
    (finding,) = findings(record, "xid-hardware")
    assert (finding.verdict, finding.subject) == (Verdict.FAIL, "GPU 1")


def test_the_kernel_s_ring_is_read_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("4,1,5,-;NVRM: Xid (PCI:0000:10:00): 31, pid=7\n" * 3, encoding="utf-8")
    (event,) = parse_xids(kernel_records(log))
    assert (event.code, event.bus_id, event.count) == (31, "0000:10:00", 3)


def test_the_lines_of_old_and_new_drivers_are_understood() -> None:
    text = (
        "NVRM: Xid (0000:03:00): 13, Graphics Exception\n"
        "[ 12.3] NVRM: Xid (PCI:0000:9B:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset)\n"
        "NVRM: GPU at PCI:0000:9b:00: GPU-1111\n"
    )
    assert [(event.code, event.bus_id) for event in parse_xids(text)] == [(13, "0000:03:00"), (154, "0000:9b:00")]


def test_a_disk_or_clock_that_cannot_be_asked_is_unknown(tmp_path: Path, stub: Path) -> None:
    record = replace(HEALTHY, calls=FakeCalls(clock_kept="Operation not permitted")).record(tmp_path, stub)
    assert _verdicts(record, "clock-wrong") == {Verdict.UNKNOWN}


def test_an_unknown_driver_version_is_not_a_driver_that_fits(tmp_path: Path, stub: Path) -> None:
    calls = ("nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion", "nvmlSystemGetCudaDriverVersion_v2")
    silent: dict[str, Any] = dict.fromkeys((f"fail {call}" for call in calls), 10) | {"fail cuDriverGetVersion": 999}
    scene = machine(a100(), driver=silent, files={"/sys/module/nvidia/version": "odd\n"})
    report = _by_check(_judged(scene, tmp_path, stub))
    assert {finding.verdict for finding in report["driver-too-old"]} == {Verdict.UNKNOWN}
