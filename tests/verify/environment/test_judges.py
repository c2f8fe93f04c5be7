"""Test every environment check on a record that triggers only it, and on one that doesn't."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from envforge.base.process import ProcessEnd
from envforge.base.terms import ComputeCapability
from envforge.verify.checks import judge
from envforge.verify.environment.checks import supports
from envforge.verify.environment.facts import AuditDifference, CudaFacts, Library, NumpyFacts, Toolchain, VisibleGpu
from envforge.verify.record import Record
from envforge.verify.values import Signal, Verdict
from tests.verify.environment.records import (
    AUDIT,
    CHECKS,
    GPU,
    LIBRARIES,
    LOCKED,
    PYTHON,
    TORCH,
    complaints,
    facts,
    findings,
)
from tests.verify.environment.support import NOW

FAIL, WARN, UNKNOWN = Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN
DEAD = ProcessEnd(seconds=1.0, exit_code=-11, signal="SIGSEGV", limit_s=120.0)
DRIFT = AuditDifference(kind="package-version", text="`numpy` is 2.2.0, the lock has 2.3.0", package="numpy")
CHANGED = AuditDifference(kind="file-changed", text="`torch/amp/__init__.py` was changed", package="torch")
TWICE = AuditDifference(kind="owned-twice", text="`numpy` of pip is also installed by conda", package="numpy")
OUTSIDE = Library(family="libcudnn", path="/usr/local/cuda/lib64/libcudnn.so.9", inside=False)
SECOND = Library(family="libiomp5", path="/srv/net/.conda/lib/libiomp5.so", inside=True)
CPU_TORCH = replace(TORCH, version="2.13.0+cpu", cuda=None, arch_list=(), cudnn=None, nccl=None)
V100 = replace(GPU, capability="7.0")
BLIND = CudaFacts(available=False, warnings=("CUDA initialization: found no NVIDIA driver",))
NOTHING: dict[str, Any] = {
    name: Signal(unreadable="the process died by SIGSEGV after 1.0 s")
    for name in ("torch", "cuda", "numpy", "libraries")
}

TRIGGERS: tuple[tuple[str, Verdict, dict[str, Any]], ...] = (
    ("environment-missing", FAIL, {"state": "unfinished", "state_text": "unfinished since step `fetched`"}),
    ("environment-drift", FAIL, {"audit": Signal(value=replace(AUDIT, drift=(DRIFT,)))}),
    ("files-changed", FAIL, {"audit": Signal(value=replace(AUDIT, drift=(CHANGED,)))}),
    ("packages-twice", WARN, {"audit": Signal(value=replace(AUDIT, warnings=(TWICE,)))}),
    ("torch-import-failed", FAIL, {**NOTHING, "process": DEAD}),
    ("import-isolation", FAIL, {"python": Signal(value=replace(PYTHON, torch_origin="/home/me/torch.py"))}),
    ("import-isolation", WARN, {"python": Signal(value=replace(PYTHON, outside=("/home/me/lib",)))}),
    ("library-from-outside", FAIL, {"libraries": Signal(value=(*LIBRARIES, OUTSIDE))}),
    ("library-from-outside", UNKNOWN, {"libraries": Signal(unreadable="no /proc")}),
    ("openmp-twice", WARN, {"libraries": Signal(value=(*LIBRARIES, SECOND))}),
    ("numpy-abi", FAIL, {"numpy": Signal(value=NumpyFacts(version="2.3.0", works=False, error="RuntimeError: x"))}),
    ("numpy-abi", FAIL, {"torch": Signal(value=replace(TORCH, numpy_warning="_ARRAY_API not found"))}),
    ("cpu-build-in-gpu-lock", FAIL, {"torch": Signal(value=CPU_TORCH), "cuda": Signal(), "machine_gpus": ()}),
    ("torch-version", FAIL, {"torch": Signal(value=replace(TORCH, version="2.12.0+cu130"))}),
    ("torch-version", FAIL, {"torch": Signal(value=replace(TORCH, version="2.13.0+cu126", cuda="12.6"))}),
    ("library-versions", WARN, {"torch": Signal(value=replace(TORCH, cudnn="9.1.0"))}),
    ("torch-sees-no-gpu", FAIL, {"cuda": Signal(value=BLIND)}),
    ("torch-sees-no-gpu", FAIL, {"cuda": Signal(unreadable="hung"), "process": replace(DEAD, exit_code=None)}),
    ("torch-gpu-count", FAIL, {"cuda": Signal(value=CudaFacts(available=True, gpus=(GPU, replace(GPU, index=1))))}),
    ("arch-not-in-torch", FAIL, {"cuda": Signal(value=CudaFacts(available=True, gpus=(V100,)))}),
    ("arch-not-in-torch", UNKNOWN, {"torch": Signal(value=replace(TORCH, arch_list=()))}),
    ("compile-toolchain", WARN, {"toolchain": Signal(value=Toolchain(compiler=None, python_header="/h", triton="/t"))}),
)  # fmt: skip


def test_nothing_is_said_of_a_sound_environment() -> None:
    assert complaints(facts()) == {}
    passes = {name for name, finding in findings(facts()).items() if finding.verdict is Verdict.PASS}
    assert passes == {check.id for check in CHECKS}


@pytest.mark.parametrize(
    ("check", "verdict", "changes"), TRIGGERS, ids=[f"{row[0]}-{row[1].value}" for row in TRIGGERS]
)
def test_each_fault_is_found_by_its_own_check_alone(check: str, verdict: Verdict, changes: dict[str, Any]) -> None:
    assert complaints(facts(**changes)) == {check: verdict}


def test_a_project_installed_to_be_edited_is_told_and_is_no_complaint() -> None:
    editable = replace(PYTHON, outside=("/home/me/mine",), pth=("__editable__.mine-1.pth: /home/me/mine",))
    assert findings(facts(python=Signal(value=editable)))["import-isolation"].verdict is Verdict.INFO
    both = replace(editable, outside=("/home/me/mine", "/home/me/lib"))
    finding = findings(facts(python=Signal(value=both)))["import-isolation"]
    assert finding.verdict is WARN
    assert "/home/me/mine" not in finding.observed


def test_library_from_a_pth_file_names_the_file() -> None:
    python = replace(PYTHON, pth=("other.pth: /usr/local/cuda",))
    changes = {"libraries": Signal(value=(*LIBRARIES, OUTSIDE)), "python": Signal(value=python)}
    finding = findings(facts(**changes))["library-from-outside"]
    assert "because `other.pth` adds its directory" in finding.observed
    assert finding.command.endswith(" -name other.pth")


def test_every_check_has_a_record_that_triggers_it() -> None:
    assert {row[0] for row in TRIGGERS} == {check.id for check in CHECKS}


def test_a_fault_comes_with_all_that_is_needed_to_mend_it() -> None:
    for check, verdict, changes in TRIGGERS:
        finding = findings(facts(**changes))[check]
        assert finding.observed
        assert finding.why
        if verdict is Verdict.FAIL:
            assert finding.wanted
            assert finding.command, check


def test_a_record_without_an_environment_is_not_judged() -> None:
    assert judge(Record(envforge="0", created_at=NOW), CHECKS).findings == ()


def test_a_cpu_lock_on_a_machine_without_gpu_passes() -> None:
    locked = Signal(value=replace(LOCKED, cuda=None))
    cuda = Signal(value=CudaFacts(available=False))
    quiet = facts(locked=locked, torch=Signal(value=CPU_TORCH), cuda=cuda, driver=None, machine_gpus=())
    assert complaints(quiet) == {}


def test_a_gpu_lock_on_a_machine_without_gpu_fails_by_name() -> None:
    cuda = Signal(value=CudaFacts(available=False))
    assert complaints(facts(cuda=cuda, driver=None, machine_gpus=())) == {"torch-sees-no-gpu": FAIL}


def test_a_cpu_build_beside_a_driver_is_named_where_there_is_no_lock() -> None:
    alone = facts(torch=Signal(value=CPU_TORCH), cuda=Signal(value=BLIND), locked=Signal(unreadable="no lock"))
    assert complaints(alone) == {"torch-sees-no-gpu": FAIL}


def test_an_audit_that_cannot_be_made_is_unknown_and_not_a_pass() -> None:
    assert complaints(facts(audit=Signal(unreadable="the lock is damaged"))) == {
        "environment-drift": UNKNOWN,
        "files-changed": UNKNOWN,
    }


@pytest.mark.parametrize(
    ("arch_list", "capability", "runs"),
    [
        ("sm_80", "8.6", True),
        ("sm_86", "8.0", False),
        ("sm_86", "8.9", True),
        ("sm_75 sm_80", "7.0", False),
        ("sm_90a", "9.0", True),
        ("sm_90a", "9.1", False),
        ("sm_80", "8.7", False),
        ("sm_87", "8.7", True),
        ("sm_87", "8.9", False),
        ("sm_90 compute_90", "12.0", True),
        ("sm_90", "12.0", False),
        ("sm_100", "10.3", True),
    ],
)
def test_kernels_serve_their_major_version_upwards(arch_list: str, capability: str, runs: bool) -> None:
    torch = replace(TORCH, cuda="13.0", arch_list=tuple(arch_list.split()))
    assert supports(torch, "linux-64", ComputeCapability.parse(capability)) is runs


@pytest.mark.parametrize(("cuda", "runs"), [("13.2", True), ("13.0", False)])
def test_tegra_runs_kernels_for_servers_from_one_cuda_on(cuda: str, runs: bool) -> None:
    torch = replace(TORCH, cuda=cuda, arch_list=("sm_80",))
    assert supports(torch, "linux-aarch64", ComputeCapability(8, 7)) is runs


def test_the_driver_speaks_for_gpus_that_torch_does_not_see() -> None:
    gpu = VisibleGpu(index=0, name="Tesla V100-SXM2-16GB", capability="7.0")
    seen = complaints(facts(cuda=Signal(value=BLIND), machine_gpus=(gpu,)))
    assert seen == {"torch-sees-no-gpu": FAIL, "arch-not-in-torch": FAIL}
