"""Choose the device and the precision of a training, each with its reason, and configure torch."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from . import compat, distributed
from .checkpoint import make_run_dir, seed_everything
from .errors import Hint, ProjectError, UnsupportedError
from .options import TrainOptions

DEVICES = ("auto", "cpu", "cuda", "mps")
BEST_PRECISION = Hint("to use the best supported precision", option="--precision auto")
_CPU_BF16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Precision:
    """``dtype`` is the dtype of autocast, None without autocast; only fp16 needs a GradScaler.

    fp8 is bf16 with large linear layers in float8, which only some projects have.
    """

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}.get(self.name)

    @property
    def scaled(self) -> bool:
        return self.name == "fp16"


@dataclass(frozen=True)
class Ability:
    """The properties of a device that decide the precision; ``bf16``: it computes in bf16 natively."""

    kind: str
    name: str
    bf16: bool
    capability: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} (compute capability {major}.{minor})" if self.kind == "cuda" else self.name


def prepare(config: TrainOptions, say: Callable[[str], None]) -> tuple[torch.device, Precision]:
    """Choose device and precision, print the reason, configure torch, and seed. Call it before the model is made."""
    if config.deterministic:
        compat.make_deterministic()
    # torch counts the CPUs of the machine; with more threads than the quota allows, all of them wait for each other
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), usable_cpus()))
    distributed.join(config.device)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, ability_of(device))
    compat.set_tf32(precision.name != "fp32" or config.precision == "auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = not config.deterministic
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    if distributed.rank() == 0:
        make_run_dir(config.run_dir)
    seed_everything(config.seed)
    processes = f", {distributed.ranks()} processes" if distributed.ranks() > 1 else ""
    say(f"device {device}{processes}, precision {precision.name}: {precision.reason}")
    return device, precision


def choose_device(request: str) -> torch.device:
    """Return the requested device; ``auto`` is CUDA, else Apple's MPS, else the CPU."""
    if request == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(request)
    except RuntimeError as error:
        raise _unknown_device(request) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _unusable_device(device, str(error).splitlines()[0]) from error
    return device


def _unknown_device(request: str) -> ProjectError:
    kind, _, index = request.lower().partition(":")
    near = "cuda" if kind in ("gpu", "nvidia") else next(iter(get_close_matches(kind, DEVICES, n=1)), "")
    if near == "cuda":
        near += f":{index}" if index.isdecimal() else ""
    return ProjectError(
        f"unknown device `{request}`: expected {', '.join(DEVICES)}, or `cuda:N` for one of several GPUs",
        hint=f"did you mean `--device {near}`?" if near else "to use the best available device",
        option="" if near else "--device auto",
    )


def _unusable_device(device: torch.device, reason: str) -> ProjectError:
    hints = [Hint("to use the best available device", option="--device auto")]
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        reason = f"torch {torch.__version__} is a CPU build"
        hints += [
            Hint("to find the CUDA build for this machine", command="envforge explain"),
            Hint("to use that build, with its tag for TAG", command="envforge lock --variant TAG && envforge install"),
        ]
    elif device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count() > 0:
        reason = f"the number of the last GPU is {torch.cuda.device_count() - 1}"
    elif device.type == "cuda":
        hints.append(Hint("to find out why torch can't use the GPU", command="envforge verify machine"))
    return ProjectError(f"cannot use the device `{device}`: {reason}", hint=hints)


def ability_of(device: torch.device) -> Ability:
    """Read the properties from torch and, for the CPU, from ``/proc/cpuinfo``."""
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return Ability("cuda", name, compat.native_bf16(device), capability)
    if device.type == "mps":
        return Ability("mps", "Apple GPU", compat.TORCH >= (2, 6))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return Ability("cpu", "CPU", any(flag in flags for flag in _CPU_BF16))


def choose_precision(request: str, ability: Ability) -> Precision:
    """Return the precision and its reason; raise if the device doesn't support the requested one."""
    if request == "auto":
        return _automatic(ability)
    reason = "requested"
    major, minor = {"tf32": (8, 0), "fp8": (8, 9)}.get(request, (0, 0))
    if major and (ability.kind != "cuda" or ability.capability < (major, minor)):
        message = f"{request} requires a GPU with compute capability {major}.{minor} or higher, found {ability}"
        raise UnsupportedError(message, hint=[BEST_PRECISION])
    if request == "fp16" and ability.kind == "cpu":
        raise UnsupportedError("fp16 on a CPU is several times slower than fp32", hint=[BEST_PRECISION])
    if request == "fp8":
        reason += "; large linear layers in float8, the rest in bf16; faster only with --compile"
    if request == "bf16" and ability.kind == "cuda" and not ability.bf16:
        reason += f", but {ability} only emulates bf16; fp16 is faster on it"
    return Precision(request, reason)


def _automatic(ability: Ability) -> Precision:
    if ability.kind == "cuda":
        if ability.bf16:
            return Precision("bf16", f"{ability} supports bf16 natively")
        if ability.capability >= (7, 0):
            return Precision("fp16", f"{ability} has fp16 tensor cores, but only emulates bf16")
        return Precision("fp32", f"{ability} has no half-precision tensor cores")
    if ability.kind == "mps":
        reason = "with torch 2.6 or later" if ability.bf16 else "with torch before 2.6"
        return Precision("bf16" if ability.bf16 else "fp32", f"Apple GPU {reason}")
    if ability.bf16:
        return Precision("bf16", f"this CPU has {' or '.join(_CPU_BF16)}")
    return Precision("fp32", f"this CPU has neither {' nor '.join(_CPU_BF16)}")


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, by its affinity and the quota of its control group (v2 or v1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([count, *_cgroup_quotas(root)])))


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield each CPU quota of the control group and of its parents, whose quotas apply, too."""
    for group in _cgroups(root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((group / name).read_text() for name in names).split()
            except (OSError, ValueError):  # the other version of control groups, or a group without this controller
                continue
            if quota.isdecimal() and period.isdecimal() and int(period):  # no quota: `max` or -1
                yield int(quota) / int(period)


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the directories of the control group and of its parents, in both versions."""
    top = root / "sys/fs/cgroup"
    yield from (top, top / "cpu")  # in a container, the group itself is mounted here
    listing = root / "proc/self/cgroup"
    for line in listing.read_text(errors="replace").splitlines() if listing.is_file() else ():
        controllers, _, name = line.partition(":")[2].partition(":")
        group = Path(name.strip("/"))
        # a path with `..` is outside of the container, so it isn't mounted
        if ".." not in group.parts and (not controllers or "cpu" in controllers.split(",")):
            mount = top / "cpu" if controllers else top
            yield from (mount / part for part in (group, *group.parents))


def nvidia_signs(root: Path = Path("/")) -> tuple[str, ...]:
    """Return each sign of an NVIDIA device or driver with its source, without torch; empty if there is none."""
    signs = ["kernel driver (/proc/driver/nvidia)"] if (root / "proc/driver/nvidia").exists() else []
    if nodes := sorted(path.name for path in (root / "dev").glob("nvidia*")):
        signs.append(f"device nodes (/dev/{', /dev/'.join(nodes[:3])})")
    if gpus := [path.name for path in sorted((root / "sys/bus/pci/devices").glob("*")) if _is_nvidia_gpu(path)]:
        signs.append(f"PCI device {', '.join(gpus)}")
    if (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        signs.append("driver of Windows (/usr/lib/wsl/lib/libcuda.so.1)")
    if program := shutil.which("nvidia-smi"):
        signs.append(f"nvidia-smi ({program})")
    if nvml := ctypes.util.find_library("nvml" if os.name == "nt" else "nvidia-ml"):
        signs.append(f"NVML ({nvml})")
    return tuple(signs)


def _is_nvidia_gpu(device: Path) -> bool:
    """Return whether the PCI device is a display controller (class 0x03....) by NVIDIA (vendor 0x10de)."""
    try:
        return (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith("0x03")
    except OSError:  # an unreadable device is no sign
        return False
