"""Choose the device and the precision of a training, each with its reason, and configure torch."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from . import compat, distributed
from .checkpoint import make_run_dir, seed_everything
from .errors import ProjectError, UnsupportedError
from .options import TrainOptions

WSL_CUDA = "usr/lib/wsl/lib/libcuda.so.1"
DEVICES = ("auto", "cpu", "cuda", "mps")
BEST_DEVICE = "to use the best available device, pass `--device auto`"
BEST_PRECISION = "to use the best supported precision, pass `--precision auto`"


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
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it once, at the first CUDA call
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    # torch counts the CPUs of the machine; with more threads than the quota allows, all of them wait for each other
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), usable_cpus()))
    distributed.join(config.device)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, ability_of(device))
    allow_tf32 = precision.name != "fp32" or config.precision == "auto"
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
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
        kind, _, index = request.lower().partition(":")
        near = "cuda" if kind in ("gpu", "nvidia") else next(iter(get_close_matches(kind, DEVICES, n=1)), "")
        near += f":{index}" if near == "cuda" and index.isdecimal() else ""
        raise ProjectError(
            f"unknown device `{request}`: expected {', '.join(DEVICES)}, or `cuda:N` for one of several GPUs",
            hint=f"did you mean `--device {near}`?" if near else BEST_DEVICE,
        ) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _unusable_device(device, str(error).splitlines()[0]) from error
    return device


def _unusable_device(device: torch.device, reason: str) -> ProjectError:
    hints, gpus = [BEST_DEVICE], torch.cuda.device_count()
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        reason = f"torch {torch.__version__} is a CPU build"
        hints += [
            "to find the CUDA build for this machine, run `envforge explain`",
            "to use that build, with its tag for TAG, run `envforge lock --variant TAG && envforge install`",
        ]
    elif device.type == "cuda" and (device.index or 0) >= gpus > 0:
        reason = f"the number of the last GPU is {gpus - 1}"
    elif device.type == "cuda":
        hints.append("to find out why torch can't use the GPU, run `envforge verify machine`")
    return ProjectError(f"cannot use the device `{device}`: {reason}", hint=hints)


def ability_of(device: torch.device) -> Ability:
    """Read the properties from torch and, for the CPU, from ``/proc/cpuinfo``."""
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return Ability("cuda", name, compat.native_bf16(device), capability)
    if device.type == "mps":
        return Ability("mps", f"Apple GPU with torch {torch.__version__}", compat.TORCH >= (2, 6))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    found = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return Ability("cpu", f"this CPU ({', '.join(found) or 'without bf16 instructions'})", bool(found))


def choose_precision(request: str, ability: Ability) -> Precision:
    """Return the precision and its reason; raise if the device doesn't support the requested one."""
    if request == "auto":
        if ability.bf16:
            return Precision("bf16", f"{ability} supports bf16 natively")
        if ability.kind == "cuda" and ability.capability >= (7, 0):
            return Precision("fp16", f"{ability} has fp16 tensor cores, but only emulates bf16")
        return Precision("fp32", f"{ability} has no fast half precision")
    reason = "requested"
    major, minor = {"tf32": (8, 0), "fp8": (8, 9)}.get(request, (0, 0))
    if major and (ability.kind != "cuda" or ability.capability < (major, minor)):
        message = f"{request} requires a GPU with compute capability {major}.{minor} or higher, found {ability}"
        raise UnsupportedError(message, hint=BEST_PRECISION)
    if request == "fp16" and ability.kind == "cpu":
        raise UnsupportedError("fp16 on a CPU is several times slower than fp32", hint=BEST_PRECISION)
    if request == "bf16" and ability.kind == "cuda" and not ability.bf16:
        reason += f", but {ability} only emulates bf16; fp16 is faster on it"
    return Precision(request, reason)


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use, by its affinity and the quotas of its control groups (v2 or v1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    top, quotas = root / "sys/fs/cgroup", []
    listing = root / "proc/self/cgroup"
    for line in ("0::", "0:cpu:", *(listing.read_text(errors="replace").splitlines() if listing.is_file() else ())):
        controllers, _, name = line.partition(":")[2].partition(":")
        group = Path(name.strip("/"))
        # a path with `..` is outside of the container, so it isn't mounted
        if ".." in group.parts or (controllers and "cpu" not in controllers.split(",")):
            continue
        mount, files = (top / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")) if controllers else (top, ("cpu.max",))
        for part in (group, *group.parents):  # the quota of a parent applies, too
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no such group or controller
                quota, period = " ".join((mount / part / file).read_text() for file in files).split()
                quotas += [int(quota) / int(period)] if quota.isdecimal() else []  # without a quota: `max` or -1
    return max(1, int(min([count, *quotas])))


def nvidia_signs(root: Path = Path("/")) -> tuple[str, ...]:
    """Return each sign of an NVIDIA device or driver with its source, without torch; empty if there is none."""
    signs = []
    for name, pattern in (("kernel driver", "proc/driver/nvidia"), ("device nodes", "dev/nvidia*"), ("WSL", WSL_CUDA)):
        if found := sorted(map(str, root.glob(pattern))):
            signs.append(f"{name} ({', '.join(found[:3])})")
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        with contextlib.suppress(OSError):  # an unreadable device is no sign
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA, and a display controller
                signs.append(f"PCI device {device.name}")
    if program := shutil.which("nvidia-smi"):
        signs.append(f"nvidia-smi ({program})")
    if nvml := ctypes.util.find_library("nvml" if os.name == "nt" else "nvidia-ml"):
        signs.append(f"NVML ({nvml})")
    return tuple(signs)
