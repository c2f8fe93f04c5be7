"""Define two machines for each row of the check table: one on which the check fails, and one on which it passes.

The check table is in docs/verify-machine.md. Rows of environment and training are tested elsewhere.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from envforge.machine.world import Space
from envforge.verify.values import Verdict
from tests.support.nvml_stub import GIB, MIG_H100, StubGpu, StubMachine, gpu
from tests.verify.machine.scenes import (
    CUDA_LOCK,
    DRIVER,
    FLAGS_V2,
    MAC_LOCK,
    MODULE,
    NEWEST_LOCK,
    NOW,
    FakeCalls,
    Scene,
    a100,
    cpuinfo,
    machine,
    pci,
)

HEALTHY = machine(a100(0), a100(1))
"""Two GPUs with which nothing is wrong, and a lock that fits."""

NOTHING = Scene()
"""A computer without any sign of NVIDIA, and without a lock."""


class Scenario(Struct, frozen=True):
    """A check, the computer on which it gives ``verdict`` with ``words``, and the one on which it gives ``calm``."""

    check: str
    name: str
    scene: Scene
    words: str
    verdict: Verdict = Verdict.FAIL
    quiet: Scene = field(default_factory=lambda: HEALTHY)
    calm: Verdict = Verdict.PASS


def _on_bus(driver: str, **more: Any) -> Scene:
    files, links = pci(1, driver)
    return replace(Scene(lock=CUDA_LOCK, files=files, links=links), **more)


def _container(scene: Scene) -> Scene:
    return replace(scene, files={**scene.files, "/.dockerenv": ""})


def _with(scene: Scene, **files: str) -> Scene:
    return replace(scene, files={**scene.files, **{f"/{name}": text for name, text in files.items()}})


def _calls(**more: Any) -> Scene:
    return replace(HEALTHY, calls=FakeCalls(**more))


def _driver(version: str, cuda: int, *gpus: StubGpu) -> Scene:
    scene = machine(
        *(gpus or (a100(),)), driver={"driver_version": version, "nvml_version": version, "cuda": cuda, "libcuda": cuda}
    )
    return replace(scene, files={**scene.files, "/sys/module/nvidia/version": f"{version}\n"})


def _no_room(part: str, free_bytes: int, free_inodes: int = 1_000_000) -> Scene:
    space = Space(total_bytes=100 * GIB, free_bytes=free_bytes, free_inodes=free_inodes)
    return _calls(spaces={part: space})


def _log(line: str) -> Scene:
    return _calls(kernel_log=f"6,1,5,-;usb 1-1: new device\n4,2,6,-;NVRM: Xid (PCI:0000:10:00): {line}\n")


SWITCH = {
    "/sys/bus/pci/devices/0000:f0:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:f0:00.0/class": "0x068000\n",
}
MANAGER = ("nv-fabricmanager", "--version")
SERVICE = ("systemctl", "is-active", "nvidia-fabricmanager")
SWITCHED = machine(a100(0, fabric="3 0 0"), a100(1, fabric="3 0 0"), files=SWITCH)
FABRIC_READY = replace(
    SWITCHED, programs={MANAGER: (0, "Fabric Manager version is : 580.126.09\n"), SERVICE: (0, "active\n")}
)
WSL = {"/proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n", "/dev/dxg": ""}
WSL_STUB = StubMachine(keys=DRIVER, gpus=(gpu("NVIDIA GeForce RTX 4070", "8.9", 12),))
WSL_WELL = Scene(stub=WSL_STUB, files=WSL, libraries="usr/lib/wsl/lib")
V100 = gpu("Tesla V100-SXM2-16GB", "7.0", 16)
T4 = gpu("Tesla T4", "7.5", 15)

SCENARIOS = (
    Scenario(
        "gpu-missing", "a lock with CUDA, no GPU", replace(NOTHING, lock=CUDA_LOCK), "no NVIDIA GPU on the PCI bus"
    ),
    Scenario("driver-not-loaded", "a GPU without its module", _on_bus(""), "the nvidia kernel module isn't loaded"),
    Scenario(
        "driver-not-loaded", "a GPU that is set aside", _on_bus("vfio-pci"), "the kernel driver vfio-pci holds the GPU"
    ),
    Scenario("nouveau", "nouveau holds the GPU", _on_bus("nouveau"), "nouveau"),
    Scenario(
        "driver-silent", "no library", _on_bus("nvidia", files={**pci(1)[0], **MODULE}), "libnvidia-ml.so.1 isn't found"
    ),
    Scenario(
        "driver-silent",
        "NVML hangs",
        machine(a100(), driver={"fail nvmlInitWithFlags": "hang"}, timeout_s=1.0),
        "doesn't respond in time",
    ),
    Scenario("driver-silent", "NVML crashes", machine(a100(), driver={"fail nvmlInitWithFlags": "crash"}), "crashes"),
    Scenario("device-files", "no permission", _calls(closed=("/dev/nvidia1",)), "no permission to use /dev/nvidia1"),
    Scenario(
        "gpu-count",
        "a dead GPU",
        replace(machine(a100()), files={**machine(a100()).files, **pci(2)[0]}),
        "2 GPUs on the PCI bus, 1 in the driver",
    ),
    Scenario("gpu-count", "the driver lists none", machine(), "lists no GPU"),
    Scenario(
        "gpus-hidden", "a number twice", replace(HEALTHY, environment={"CUDA_VISIBLE_DEVICES": "0,0"}), "see none"
    ),
    Scenario(
        "gpus-hidden",
        "a number too high",
        replace(HEALTHY, environment={"CUDA_VISIBLE_DEVICES": "1,7"}),
        "`7` doesn't exist",
        Verdict.WARN,
    ),
    Scenario("different-gpus", "two kinds", machine(a100(), V100), "the GPUs differ", Verdict.INFO),
    Scenario(
        "gpu-lost",
        "fallen off the bus",
        machine(a100(), a100(1, **{"fail nvmlDeviceGetHandleByIndex_v2": 15})),
        "the GPU is lost",
    ),
    Scenario(
        "driver-library-mismatch",
        "an unattended upgrade",
        machine(a100(), driver={"fail nvmlInitWithFlags": 18}),
        "Driver/library version mismatch",
    ),
    Scenario("libcuda-missing", "NVML alone", replace(HEALTHY, without=("libcuda.so.1",)), "libcuda.so.1: cannot open"),
    Scenario("fabric-not-ready", "not started", machine(a100(fabric="1 0 0")), "not started", quiet=FABRIC_READY),
    Scenario(
        "fabric-not-ready",
        "the manager of another driver",
        replace(SWITCHED, programs={MANAGER: (0, "Fabric Manager version is : 570.1\n"), SERVICE: (3, "inactive\n")}),
        "is not active; it has version 570.1",
        quiet=FABRIC_READY,
    ),
    Scenario(
        "cuda-compat-misused",
        "a compatibility library on GeForce",
        machine(gpu("NVIDIA GeForce RTX 3090", "8.6", 24), libraries="cuda-compat"),
        "Error 804",
    ),
    Scenario(
        "lock-not-installable", "a lock for macOS", replace(NOTHING, lock=MAC_LOCK), "the lockfile is for osx-arm64"
    ),
    Scenario(
        "driver-too-old",
        "470 and CUDA 12",
        _driver("470.256.02", 11040),
        "(supports CUDA 11.4); the lockfile contains CUDA 12.6 (`torch 2.14.0+cu126`)",
    ),
    Scenario(
        "driver-minor-older",
        "535 and CUDA 12.6",
        _driver("535.216.01", 12020),
        "minor-version compatibility",
        Verdict.WARN,
    ),
    Scenario("no-kernel-for-gpu", "Volta and CUDA 13", machine(V100, lock=NEWEST_LOCK), "has compute capability 7.0"),
    Scenario("glibc-too-old", "CentOS 7", replace(HEALTHY, libc="glibc 2.17"), "glibc 2.17"),
    Scenario("glibc-too-old", "Alpine", replace(HEALTHY, libc=""), "no glibc"),
    Scenario(
        "cpu-too-old", "before SSE4", _with(HEALTHY, **{"proc/cpuinfo": cpuinfo("sse sse2")}), "Illegal instruction"
    ),
    Scenario(
        "cpu-too-old",
        "before AVX2",
        _with(HEALTHY, **{"proc/cpuinfo": cpuinfo(FLAGS_V2)}),
        "lacks abm, avx, avx2",
        Verdict.WARN,
    ),
    Scenario("precision", "a T4", machine(T4), "bf16 is only emulated", Verdict.INFO, quiet=NOTHING, calm=Verdict.SKIP),
    Scenario(
        "container-without-gpus",
        "docker without --gpus",
        _container(_on_bus("nvidia", files={**pci(1)[0], "/sys/module/nvidia/version": "580.126.09\n"})),
        "this container can't use it",
        quiet=_container(HEALTHY),
    ),
    Scenario(
        "container-lost-gpu",
        "systemctl daemon-reload",
        _container(replace(_on_bus("", files=MODULE), stub=StubMachine(keys={"fail nvmlInitWithFlags": 999}))),
        "Unknown Error",
        quiet=_container(HEALTHY),
    ),
    Scenario("mig-unusable", "MIG without devices", machine(a100(mig=1)), "there is no MIG device"),
    Scenario(
        "mig-unusable", "MIG waits for a reset", machine(a100(mig=0, mig_pending=1)), "after the next", Verdict.WARN
    ),
    Scenario("mig-unusable", "slices", replace(Scene(), stub=MIG_H100), "MIG is on with 2 devices", Verdict.INFO),
    Scenario(
        "wsl-driver",
        "a Linux driver inside WSL",
        replace(WSL_WELL, libraries="usr/lib/x86_64-linux-gnu"),
        "installed inside WSL",
        quiet=WSL_WELL,
    ),
    Scenario("recovery-needed", "the driver asks for a reset", machine(a100(recovery_action=1)), "reset the GPU"),
    Scenario("ecc-uncorrectable", "errors now", machine(a100(ecc_uncorrected=3)), "3 uncorrectable memory errors"),
    Scenario(
        "ecc-uncorrectable", "errors long ago", machine(a100(ecc_uncorrected_ever=2)), "2 in the life", Verdict.INFO
    ),
    Scenario("ecc-mode", "ECC waits for a reset", machine(a100(ecc_pending=0)), "off after the next", Verdict.WARN),
    Scenario("row-remap", "no spare row", machine(a100(rows="0 2 0 1")), "could not be replaced"),
    Scenario("row-remap", "a row waits", machine(a100(rows="0 1 1 0")), "at the next reset", Verdict.WARN),
    Scenario("row-remap", "more than 512 rows", machine(a100(rows="0 600 0 0")), "600 uncorrectable", Verdict.INFO),
    Scenario(
        "retired-pages", "a page waits", machine(a100(retired_pages=4, retired_pending=1)), "4 retired", Verdict.WARN
    ),
    Scenario("xid-hardware", "off the bus", _log("79, pid=1, GPU has fallen off the bus."), "Xid 79 once"),
    Scenario("xid-hardware", "a code that nobody knows", _log("9999, what"), "not in the Xid table", Verdict.WARN),
    Scenario(
        "xid-application",
        "an access out of bounds",
        _log("31, pid=7, MMU Fault"),
        "GPU memory that it does not own",
        Verdict.WARN,
    ),
    Scenario("throttled", "heat", machine(a100(event_reasons=0x48)), "hardware slowdown", Verdict.WARN),
    Scenario("power-capped", "a capped cloud", machine(a100(power_limit_mw=250000)), "limit is 250 W", Verdict.WARN),
    Scenario("clocks-lowered", "someone lowered it", machine(a100(application_clock=900)), "900 MHz", Verdict.WARN),
    Scenario("pcie-narrow", "half the lanes", machine(a100(pcie_width=8)), "8 of 16 PCIe lanes", Verdict.WARN),
    Scenario("nvlink-down", "one is down", machine(a100(links="1101"), a100(1)), "3 of 4 NVLink", Verdict.WARN),
    Scenario("persistence-off", "it is off", machine(a100(persistence=0)), "persistence mode is off", Verdict.INFO),
    Scenario(
        "gpu-busy",
        "another program",
        machine(a100(memory_used_bytes=30 * GIB, processes=f"4711:{29 * GIB}")),
        "PID 4711",
        Verdict.WARN,
    ),
    Scenario("compute-mode", "prohibited", machine(a100(compute_mode=2)), "no CUDA program can use the GPU"),
    Scenario("compute-mode", "exclusive", machine(a100(compute_mode=3)), "only one process", Verdict.WARN),
    Scenario("shm-small", "docker's 64 MiB", _no_room("/dev/shm", 64 << 20), "Bus error", Verdict.WARN),
    Scenario("disk-full", "no room for the lock", _no_room("/project", 5 * GIB), "5.0 GiB free for environment"),
    Scenario("inodes-full", "no room for files", _no_room("/project", 300 * GIB, 1000), "1000 free inodes"),
    Scenario(
        "clock-wrong", "in the past", replace(HEALTHY, written=NOW + timedelta(days=3)), "the clock shows", Verdict.WARN
    ),
    Scenario("clock-wrong", "nothing keeps it", _calls(clock_kept=False), "no synchronization", Verdict.INFO),
    Scenario(
        "memory-small",
        "a small control group",
        _with(HEALTHY, **{"sys/fs/cgroup/memory.max": f"{2 * GIB}\n"}),
        "2.0 GiB of memory (limit of the control group",
        Verdict.WARN,
    ),
    Scenario(
        "cpu-quota",
        "two of eight",
        _with(HEALTHY, **{"sys/fs/cgroup/cpu.max": "200000 100000\n"}),
        "limits CPU time to 2",
        Verdict.WARN,
    ),
    Scenario("open-files", "a low limit", _calls(limits={"RLIMIT_NOFILE": 256}), "256 open files", Verdict.WARN),
    Scenario(
        "locked-memory",
        "64 KiB",
        _calls(limits={"RLIMIT_MEMLOCK": 65536}),
        "64 KiB of locked memory",
        Verdict.INFO,
        quiet=_calls(limits={"RLIMIT_MEMLOCK": None}),
    ),
    Scenario(
        "library-path",
        "an old toolkit",
        replace(HEALTHY, environment={"LD_LIBRARY_PATH": "/usr/local/cuda-11.4/lib64:/opt/x"}),
        "/usr/local/cuda-11.4/lib64",
        Verdict.INFO,
    ),
    Scenario(
        "slow-variables",
        "left over from a search",
        replace(HEALTHY, environment={"CUDA_LAUNCH_BLOCKING": "1"}),
        "the CPU waits for every kernel",
        Verdict.WARN,
    ),
    Scenario(
        "overrides-set",
        "CUDA is stated",
        replace(HEALTHY, environment={"CONDA_OVERRIDE_CUDA": "13.0"}),
        "CONDA_OVERRIDE_CUDA=13.0",
        Verdict.INFO,
    ),
)
