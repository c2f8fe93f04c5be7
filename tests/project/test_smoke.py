"""Test the smoke test of a new project, and when the result of its GPU part is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.staging import PlannedFile
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError
from envforge.machine.record import load_machine
from envforge.machine.values import Driver, Gpu, Machine
from envforge.project.smoke import (
    SmokeRun,
    TorchBuild,
    can_skip_gpu,
    gpu_skip_reason,
    interpreter_torch,
    is_other_build,
    run_smoke,
)
from envforge.pytorch.matrix import Request, Selection, load_matrix
from envforge.pytorch.select import select
from tests.project import builds

SMOKE = """
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd()}))
sys.exit(int(open("verdict").read()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    (folder / "net").mkdir(parents=True)
    (folder / "net" / "__init__.py").touch()
    (folder / "net" / "smoke.py").write_text(SMOKE, encoding="utf-8")
    (folder / "verdict").write_text("0", encoding="utf-8")
    return folder


def _run(project: Path, *, require_gpu: bool = False, skip_reason: str = "") -> dict[str, object]:
    log = project.parent / "log"
    run = SmokeRun(
        python=sys.executable, folder=project, package="net", require_gpu=require_gpu, skip_reason=skip_reason
    )
    with log.open("w", encoding="utf-8") as output:
        run_smoke(run, output)
    seen: dict[str, object] = json.loads(log.read_text(encoding="utf-8"))
    return seen


NO_GPU = Machine(platform="linux-64", python=Version("3.12"), glibc=Version("2.35"))


def _gpu_machine(driver: str, capability: str = "7.5") -> Machine:
    version = Version(driver)
    gpu = Gpu(index=0, name="GPU-0", compute_capability=ComputeCapability.parse(capability))
    return Machine(
        platform="linux-64",
        python=Version("3.12"),
        glibc=Version("2.35"),
        driver=Driver(kernel_version=version, user_version=version),
        gpus=(gpu,),
    )


def _selected(cuda: str) -> Selection:
    return select(load_machine("t4", {}), Request(cuda=WheelTag.parse(cuda)), load_matrix())


def test_smoke_runs_in_project_directory(project: Path) -> None:
    assert _run(project) == {"arguments": [], "folder": str(project)}


def test_smoke_requires_gpu_found_here(project: Path) -> None:
    assert _run(project, require_gpu=True)["arguments"] == ["--require-gpu"]


def test_smoke_skips_gpu_with_reason(project: Path) -> None:
    seen = _run(project, require_gpu=False, skip_reason="this interpreter has torch 1")
    assert seen["arguments"] == ["--skip-gpu", "this interpreter has torch 1"]


def test_smoke_leaves_project_unchanged(project: Path) -> None:
    before = sorted(project.rglob("*"))

    _run(project)

    assert sorted(project.rglob("*")) == before


def test_smoke_ignores_python_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.parent / "other" / "net").mkdir(parents=True)
    (project.parent / "other" / "net" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(project.parent / "other"))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    assert _run(project)["folder"] == str(project)


def test_failed_smoke_shows_command(project: Path) -> None:
    (project / "verdict").write_text("7", encoding="utf-8")

    with pytest.raises(EnvforgeError) as failure:
        _run(project, require_gpu=True)

    assert failure.value.exit_code == 1
    assert "exit code 7" in failure.value.message
    assert str(project) in failure.value.message
    assert failure.value.commands == (f"cd {project} && {sys.executable} -m net.smoke --require-gpu",)


def test_smoke_streams_to_stdout(project: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from envforge.project.smoke import SmokeRun, run_smoke\n"
        f"run_smoke(SmokeRun(python={sys.executable!r}, folder=Path({str(project)!r}), package='net'), None)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout)["folder"] == str(project)


@pytest.mark.parametrize(
    ("version", "cuda", "other"),
    [
        ("2.7.1+cu118", "11.8", False),
        ("2.7.1", "11.8", False),
        ("2.7.1+cpu", None, True),
        ("2.7.1", "12.6", True),
        ("2.13.0", "13.0", True),
        ("2.6.0+cu118", "11.8", True),
    ],
)
def test_other_build_differs_in_release_or_cuda(version: str, cuda: str | None, other: bool) -> None:
    found = TorchBuild(version=Version(version), cuda=None if cuda is None else Version(cuda))
    assert is_other_build(found, builds.CU118) is other


def test_torch_without_local_version_shows_cuda() -> None:
    assert str(TorchBuild(version=Version("2.13.0"), cuda=Version("13.0"))) == "torch 2.13.0 (CUDA 13.0)"
    assert str(TorchBuild(version=Version("2.13.0+cpu"), cuda=None)) == "torch 2.13.0+cpu"


def test_interpreter_torch_matches_import() -> None:
    torch = pytest.importorskip("torch")
    found = interpreter_torch()
    assert found is not None
    assert (str(found.version), found.cuda and str(found.cuda)) == (torch.__version__, torch.version.cuda)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (_gpu_machine("535.274.02"), ""),
        (_gpu_machine("440.33.01"), "CUDA 11.x requires NVIDIA driver 450.80.02 or newer"),
        (_gpu_machine("580.65.06", "10.0"), "no kernel for compute capability 10.0"),
        (NO_GPU, "envforge detects no NVIDIA GPU on this machine"),
        (replace(_gpu_machine("535.274.02"), gpus=()), "envforge detects no NVIDIA GPU on this machine"),
        (replace(_gpu_machine("535.274.02"), visible=()), "CUDA_VISIBLE_DEVICES hides every NVIDIA GPU"),
    ],
)
def test_gpu_is_skipped_if_locked_build_does_not_fit(machine: Machine, reason: str) -> None:
    found = gpu_skip_reason(_selected("11.8"), machine, load_matrix(), "the lockfile", None)
    assert (reason in found) if reason else found == ""


def test_gpu_is_skipped_for_locked_cpu_build() -> None:
    other = TorchBuild(version=Version("2.13.0"), cuda=Version("13.0"))
    for found in (None, other):
        reason = gpu_skip_reason(_selected("cpu"), _gpu_machine("535.274.02"), load_matrix(), "the lockfile", found)
        assert reason == "the lockfile has the CPU build of torch"
        reason = gpu_skip_reason(_selected("cpu"), NO_GPU, load_matrix(), "the lockfile", found)
        assert reason == "envforge detects no NVIDIA GPU on this machine"


@pytest.mark.parametrize("machine", [_gpu_machine("535.274.02"), NO_GPU])
def test_gpu_is_skipped_for_other_build_on_every_machine(machine: Machine) -> None:
    other = TorchBuild(version=Version("2.13.0+cpu"), cuda=None)
    found = gpu_skip_reason(builds.CU118, machine, load_matrix(), "the lockfile", other)
    assert found == "this interpreter has torch 2.13.0+cpu, the lockfile has torch 2.7.1+cu118"


def test_skipping_needs_option_of_smoke_module() -> None:
    old = PlannedFile(path=PurePosixPath("net/smoke.py"), content=b"--require-gpu")
    new = PlannedFile(path=PurePosixPath("net/smoke.py"), content=b"--skip-gpu")
    assert (can_skip_gpu([old], "net"), can_skip_gpu([new], "net"), can_skip_gpu([new], "other")) == (
        False,
        True,
        False,
    )
