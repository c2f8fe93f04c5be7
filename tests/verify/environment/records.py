"""Build sample facts of a sound environment; each test changes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envforge.base.process import ProcessEnd
from envforge.verify.environment.facts import (
    AuditFacts,
    CudaFacts,
    EnvironmentFacts,
    Library,
    LockedTorch,
    NumpyFacts,
    PythonFacts,
    Toolchain,
    TorchFacts,
    VisibleGpu,
)
from envforge.verify.record import Record
from envforge.verify.values import Finding, Signal, Verdict
from tests.verify.made_up import NOW, checks_of, complaints_in, worst_findings

CHECKS = checks_of("environment")
PREFIX = "/srv/net/.conda"
SITE = f"{PREFIX}/lib/python3.12/site-packages"
TORCH = TorchFacts(
    version="2.13.0+cu130",
    file=f"{SITE}/torch/__init__.py",
    cuda="13.0",
    arch_list=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    cudnn="9.19.0",
    nccl="2.28.9",
    seconds=2.0,
)
LIBRARIES = (
    Library(family="libcudnn", path=f"{SITE}/nvidia/cudnn/lib/libcudnn.so.9", inside=True),
    Library(family="libgomp", path=f"{SITE}/torch/lib/libgomp.so.1", inside=True),
)
PYTHON = PythonFacts(
    version="3.12.4", executable=f"{PREFIX}/bin/python", prefix=PREFIX, torch_origin=f"{SITE}/torch/__init__.py"
)
AUDIT = AuditFacts(lockfile="/srv/net/conda-lock.yml", platform="linux-64", digest="ab" * 32, packages=90, files=20000)
LOCKED = LockedTorch(
    version="2.13.0", build="torch.whl", cuda="13.0", packages={"cudnn": "9.19.0.56", "nccl": "2.28.9"}
)
GPU = VisibleGpu(index=0, name="NVIDIA A100-SXM4-40GB", capability="8.0")

SOUND: Mapping[str, Any] = {
    "prefix": PREFIX,
    "state": "finished",
    "state_text": f"`{PREFIX}` was installed from `/srv/net/conda-lock.yml`",
    "platform": "linux-64",
    "driver": "580.126.09",
    "driver_source": "/sys/module/nvidia/version",
    "machine_gpus": (VisibleGpu(index=0, name="NVIDIA A100-SXM4-40GB", capability="8.0"),),
    "locked": Signal(value=LOCKED, source="/srv/net/conda-lock.yml"),
    "audit": Signal(value=AUDIT, source="envforge audit"),
    "process": ProcessEnd(seconds=3.0, exit_code=0, limit_s=120.0),
    "python": Signal(value=PYTHON, source="python"),
    "isolated_torch": Signal(value=f"{SITE}/torch/__init__.py"),
    "torch": Signal(value=TORCH),
    "cuda": Signal(value=CudaFacts(available=True, gpus=(GPU,))),
    "numpy": Signal(value=NumpyFacts(version="2.3.0", works=True)),
    "libraries": Signal(value=LIBRARIES),
    "toolchain": Signal(value=Toolchain(compiler="/usr/bin/cc", python_header="/Python.h", triton="/triton")),
}


def facts(**changes: Any) -> EnvironmentFacts:
    return EnvironmentFacts(**{**SOUND, **changes})


def findings(environment: EnvironmentFacts) -> dict[str, Finding]:
    return worst_findings(Record(envforge="0", created_at=NOW, environment=environment), CHECKS)


def complaints(environment: EnvironmentFacts) -> dict[str, Verdict]:
    return complaints_in(findings(environment))
