"""Check the driver, containers, WSL, and MIG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from envforge.machine.values import driver_text
from envforge.verify.judging import check, counted, failed, info, passed, skipped, unread, warned
from envforge.verify.machine.case import DRIVER, Case, GpuCase, each_gpu, from_condition, judge_gpus, no_gpus, sources
from envforge.verify.machine.facts import Fabric, FabricManager, Mode
from envforge.verify.machine.reference_data import name_of
from envforge.verify.values import Judgement, Verdict

_FABRIC_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_FABRIC_NOT_SUPPORTED = 0  # NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
_FABRIC_SERVICE = "systemctl status nvidia-fabricmanager --no-pager"
_WSL_LIBRARIES = "/usr/lib/wsl/lib/"


@check(
    "driver-library-mismatch",
    "Versions of the kernel module and the driver libraries",
    of=DRIVER,
    group="driver",
    row=4,
)
def _mismatch(case: Case) -> Judgement:
    """After an unattended upgrade, the old module runs with new libraries, and every CUDA program fails."""
    state, driver = case.condition("driver-library-mismatch"), case.machine.driver
    if state is not None:
        return from_condition(state, "cat /sys/module/nvidia/version; ldconfig -p | grep libnvidia-ml")
    if driver is None:
        return no_gpus(case)
    if driver.kernel_version is None or driver.user_version is None:
        part = "user-space libraries" if driver.kernel_version else "kernel module"
        wsl = " (WSL uses the Windows driver)" if case.facts.system.is_wsl else ""
        return skipped(f"the version of the driver's {part} is unknown{wsl}")
    words = f"kernel module {driver_text(driver.kernel_version)}, libraries {driver_text(driver.user_version)}"
    source = sources(case.machine.source("driver.kernel_version"), case.machine.source("driver.user_version"))
    return passed(words, source=source)


@check("libcuda-missing", "CUDA driver library (libcuda)", of=DRIVER, group="driver", required=True, row=5)
def _libcuda(case: Case) -> Judgement:
    """Without it, torch reports `Found no NVIDIA driver on your system`, although nvidia-smi works."""
    libcuda = case.facts.driver.libcuda
    if libcuda.unreadable is None:
        return passed(f"found {libcuda.value}", source=libcuda.source)
    if case.silence is not None or case.machine.driver is None:
        return no_gpus(case)
    if libcuda.code == "not-found":
        return failed(
            f"the driver runs, but its CUDA library was not found: {libcuda.unreadable}",
            "libcuda.so.1 of the same driver in the loader's search path",
            libcuda.source,
            command="ldconfig -p | grep libcuda",
        )
    return unread(libcuda)


@check("cuda-compat-misused", "Origin of libcuda", of=DRIVER, group="driver", row=12)
def _compat(case: Case) -> Judgement:
    """A compatibility library on the wrong GPU, or the libcuda of another driver, causes CUDA error 803 or 804."""
    foreign, libcuda = case.condition("libcuda-mismatch"), case.facts.driver.libcuda
    source = "/proc/self/maps of a process with libcuda.so.1"
    if foreign is not None:
        return from_condition(foreign, "ldconfig -p | grep libcuda; echo $LD_LIBRARY_PATH")
    if case.condition("cuda-compat") is not None or case.facts.driver.libcuda_is_compat:
        return replace(_compat_found(case, libcuda.value or ""), source=source)
    if libcuda.value is None:
        return no_gpus(case) if case.is_bare else skipped("no libcuda", source)
    return passed("the driver's own libcuda is loaded", source=source)


def _compat_found(case: Case, file: str) -> Judgement:
    """Judge a compatibility library, which NVIDIA supports on data center GPUs, some RTX boards, and Jetson."""
    consumer = [gpu.name for gpu in case.machine.gpus if "GeForce" in gpu.name or "TITAN" in gpu.name]
    words = f"a CUDA compatibility library is loaded: {file}"
    if consumer:
        error = "`Error 804: forward compatibility was attempted on non supported HW`"
        wanted = "the driver's own libcuda on GeForce"
        return failed(f"{words}; on {consumer[0]} it fails with {error}", wanted, command="echo $LD_LIBRARY_PATH")
    return info(f"{words}; it works on data center GPUs, in programs that load it")


@check("fabric-not-ready", "State of the NVSwitch fabric", of=DRIVER, group="driver", row=11)
def _fabric(case: Case) -> Iterator[Judgement]:
    """On HGX and DGX, CUDA programs need a running nvidia-fabricmanager of the same version as the driver."""
    manager = case.facts.driver.fabric_manager
    if manager.value is not None:
        yield replace(_fabric_service(case, manager.value), subject="fabric manager", source=manager.source)
    elif case.facts.driver.nvswitches:
        yield unread(manager, subject="fabric manager")
    if case.facts.gpus:
        yield from judge_gpus(case, lambda gpu: gpu.fabric, _fabric_state)
    elif manager.value is None:
        yield no_gpus(case)


def _fabric_service(case: Case, found: FabricManager) -> Judgement:
    driver = case.machine.driver
    version = driver_text(driver.kernel_version) if driver and driver.kernel_version else None
    faults = []
    if found.active is False:
        faults.append("the service nvidia-fabricmanager is not active")
    if found.version is not None and version is not None and found.version != version:
        faults.append(f"it has version {found.version}, but the driver has {version}")
    if faults:
        words = "; ".join(faults) + ", so CUDA fails with `Error 802: system not yet initialized`"
        return failed(words, f"nvidia-fabricmanager {version or 'of the driver'}, active", command=_FABRIC_SERVICE)
    if found.active is None or found.version is None:
        active = "unknown" if found.active is None else "yes" if found.active else "no"
        return info(f"version {found.version or 'unknown'}, active: {active}")
    return passed(f"nvidia-fabricmanager {found.version} is active")


def _fabric_state(gpu: GpuCase[Fabric]) -> Judgement:
    fabric = gpu.value
    if fabric.state == _FABRIC_NOT_SUPPORTED:
        return skipped("the GPU is not part of an NVSwitch fabric")
    if fabric.state != _FABRIC_COMPLETED or fabric.status != 0:
        words = (
            f"the NVSwitch fabric is in state `{name_of('fabric_states', fabric.state)}` with status {fabric.status}"
        )
        return failed(words, "state `completed`, status 0", command=_FABRIC_SERVICE)
    if fabric.health_mask & 3 == 1:  # NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE
        return warned("the NVSwitch fabric runs with reduced bandwidth", "full bandwidth", command="nvidia-smi -q")
    return passed("the NVSwitch fabric is set up")


@check("container-without-gpus", "GPU access of the container", of=DRIVER, group="container", row=13)
def _without(case: Case) -> Judgement:
    """If the host has a GPU that the container can't use, training runs on the CPU."""
    kind, state = case.facts.system.container, case.condition("container-without-gpus")
    if kind is None:
        return skipped("not a container")
    if state is not None:
        return from_condition(state, _start(kind), Verdict.FAIL if case.wants_gpu else Verdict.WARN)
    if case.facts.gpus:
        words = f"this container ({kind}) has {counted(len(case.facts.gpus), 'GPU')}"
        return passed(words, source="NVML nvmlDeviceGetCount")
    return skipped(f"neither this container ({kind}) nor its host has an NVIDIA GPU", "/sys/bus/pci/devices")


def _start(kind: str) -> str:
    if "podman" in kind or "libpod" in kind:
        return "podman run --rm --device nvidia.com/gpu=all IMAGE nvidia-smi"
    if kind in ("apptainer", "singularity"):
        return "apptainer exec --nv IMAGE nvidia-smi"
    if "kube" in kind:
        return "kubectl describe nodes | grep nvidia.com/gpu"
    return "docker run --rm --gpus all IMAGE nvidia-smi"


@check("container-lost-gpu", "GPUs of a running container", of=DRIVER, group="container", row=14)
def _lost(case: Case) -> Judgement:
    """`Failed to initialize NVML: Unknown Error`: the host removed the devices while the container was running."""
    state, source = case.condition("container-lost-gpus"), "NVML nvmlInit"
    if case.facts.system.container is None:
        return skipped("not a container")
    if state is not None:
        return from_condition(state, "ls -l /dev/nvidia* /dev/char | grep -i nvidia")
    if case.facts.gpus:
        return passed("NVML works in this container", source=source)
    return skipped("this container has no GPU", source)


@check("mig-unusable", "MIG mode and devices", of=each_gpu(lambda gpu: gpu.mig), group="container", row=17)
def _mig(gpu: GpuCase[Mode]) -> Judgement:
    """Without MIG devices, a GPU in MIG mode is unusable. With them, a program gets a slice of the GPU."""
    mode, empty = gpu.value, gpu.case.condition("mig-without-devices")
    known = (found for found in gpu.case.machine.gpus if found.index == gpu.facts.index)
    devices = next((len(found.mig_devices) for found in known), 0)
    if mode.current != mode.pending:
        command = "nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending --format=csv"
        return warned(f"MIG is {mode.words}", "the same mode now and after the reset", command=command)
    if not mode.current:
        return passed("MIG is off")
    if empty is not None and not devices:
        words = "MIG is on, but there is no MIG device: torch reports `No CUDA GPUs are available`"
        return failed(words, empty.remedy, command="nvidia-smi mig -lgip")
    return info(f"MIG is on with {counted(devices, 'device')}; NCCL can't connect MIG devices", command="nvidia-smi -L")


@check("wsl-driver", "NVIDIA driver in WSL", of=DRIVER, group="container", row=43)
def _wsl(case: Case) -> Judgement:
    """A Linux driver installed inside WSL hides the Windows driver, which is the one that works."""
    state, file = case.condition("wsl-without-driver"), case.facts.driver.libcuda.value or ""
    if not case.facts.system.is_wsl:
        return skipped("not WSL")
    if state is not None:
        verdict = Verdict.FAIL if case.wants_gpu else Verdict.WARN
        return from_condition(state, "ls /usr/lib/wsl/lib/ /dev/dxg", verdict)
    if file.startswith("/") and _WSL_LIBRARIES not in file:
        words = f"libcuda is `{file}`, from a Linux driver that was installed inside WSL"
        wanted = f"the library in {_WSL_LIBRARIES}, without a Linux driver inside WSL"
        return failed(words, wanted, "/proc/self/maps", command="ldconfig -p | grep libcuda")
    words = "WSL with the Windows driver, which does not support all signals"
    return passed(words, source="/proc/sys/kernel/osrelease")
