"""Check the driver, containers, WSL, and MIG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.machine.values import driver_text
from envforge.verify.machine.facts import Fabric, GpuFacts, Mode
from envforge.verify.machine.judging import (
    Case,
    counted,
    each_gpu,
    fail,
    from_condition,
    info,
    judged_of_gpu,
    no_gpus,
    passed,
    skip,
    sources,
    subject,
    unread,
    warn,
)
from envforge.verify.machine.reference_data import name_of
from envforge.verify.values import Check, Judgement, Verdict

_FABRIC_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_FABRIC_NOT_SUPPORTED = 0  # NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
_FABRIC_SERVICE = "systemctl status nvidia-fabricmanager --no-pager"


def _mismatch(case: Case) -> Iterator[Judgement]:
    state = case.condition("driver-library-mismatch")
    driver = case.machine.driver
    if state is not None:
        yield from_condition(state, "cat /sys/module/nvidia/version; ldconfig -p | grep libnvidia-ml")
    elif driver is None:
        yield no_gpus(case)
    elif driver.kernel_version is None or driver.user_version is None:
        part = "user-space libraries" if driver.kernel_version else "kernel module"
        wsl = " (WSL uses the Windows driver)" if case.facts.system.is_wsl else ""
        yield skip(f"the version of the driver's {part} is unknown{wsl}")
    else:
        words = f"kernel module {driver_text(driver.kernel_version)}, libraries {driver_text(driver.user_version)}"
        yield passed(
            words,
            source=sources(case.machine.source("driver.kernel_version"), case.machine.source("driver.user_version")),
        )


def _libcuda(case: Case) -> Iterator[Judgement]:
    libcuda = case.facts.driver.libcuda
    if libcuda.unreadable is None:
        yield passed(f"found {libcuda.value}", source=libcuda.source)
    elif case.silence is not None or case.machine.driver is None:
        yield no_gpus(case)
    elif "cannot open shared object file" in libcuda.unreadable:
        yield fail(
            f"the driver runs, but its CUDA library was not found: {libcuda.unreadable}",
            wanted="libcuda.so.1 of the same driver in the loader's search path",
            source=libcuda.source,
            command="ldconfig -p | grep libcuda",
        )
    else:
        yield unread(libcuda)


def _compat(case: Case) -> Iterator[Judgement]:
    foreign, compat = case.condition("libcuda-mismatch"), case.condition("cuda-compat")
    file = case.facts.driver.libcuda.value or ""
    source = "/proc/self/maps of a process with libcuda.so.1"
    if foreign is not None:
        yield from_condition(foreign, "ldconfig -p | grep libcuda; echo $LD_LIBRARY_PATH")
    elif compat is not None or case.facts.driver.libcuda_is_compat:
        yield _compat_found(case, file, source)
    elif case.facts.driver.libcuda.value is None:
        yield no_gpus(case) if case.is_bare else skip("no libcuda", source=source)
    else:
        yield passed("the driver's own libcuda is loaded", source=source)


def _compat_found(case: Case, file: str, source: str) -> Judgement:
    """Judge a compatibility library, which NVIDIA supports on data center GPUs, some RTX boards, and Jetson."""
    consumer = [gpu.name for gpu in case.machine.gpus if "GeForce" in gpu.name or "TITAN" in gpu.name]
    words = f"a CUDA compatibility library is loaded: {file}"
    if consumer:
        words += (
            f"; on {consumer[0]} it fails with `Error 804: forward compatibility was attempted on non supported HW`"
        )
        wanted = "the driver's own libcuda on GeForce"
        return fail(words, wanted=wanted, source=source, command="echo $LD_LIBRARY_PATH")
    return info(words + "; it works on data center GPUs, in programs that load it", source=source)


def _fabric(case: Case) -> Iterator[Judgement]:
    manager = case.facts.driver.fabric_manager
    yield from _fabric_service(case)
    if case.facts.gpus:
        yield from each_gpu(case, lambda gpu: gpu.fabric, _fabric_state)
    elif manager.value is None:
        yield no_gpus(case)


def _fabric_service(case: Case) -> Iterator[Judgement]:
    manager, driver = case.facts.driver.fabric_manager, case.machine.driver
    found = manager.value
    if found is None:
        if case.facts.driver.nvswitches:
            yield (
                unread(manager, subject="fabric manager")
                if case.facts.system.container is None
                else skip(manager.unreadable or "", source=manager.source, subject="fabric manager")
            )
        return
    version = driver_text(driver.kernel_version) if driver and driver.kernel_version else None
    wanted = f"nvidia-fabricmanager {version or 'of the driver'}, active"
    faults = []
    if found.active is False:
        faults.append("the service nvidia-fabricmanager is not active")
    if found.version is not None and version is not None and found.version != version:
        faults.append(f"it has version {found.version}, but the driver has {version}")
    if faults:
        words = "; ".join(faults) + ", so CUDA fails with `Error 802: system not yet initialized`"
        judgement = fail(words, wanted=wanted, source=manager.source, subject="fabric manager", command=_FABRIC_SERVICE)
        yield judgement
    elif found.active is None or found.version is None:
        yield info(
            f"version {found.version or 'unknown'}, active: {_yes(found.active)}",
            source=manager.source,
            subject="fabric manager",
        )
    else:
        yield passed(f"nvidia-fabricmanager {found.version} is active", source=manager.source, subject="fabric manager")


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


def _fabric_state(gpu: GpuFacts, fabric: Fabric) -> Judgement:
    place = {"source": gpu.fabric.source, "subject": subject(gpu)}
    state = name_of("fabric_states", fabric.state)
    if fabric.state == _FABRIC_NOT_SUPPORTED:
        return skip("the GPU is not part of an NVSwitch fabric", **place)
    if fabric.state != _FABRIC_COMPLETED or fabric.status != 0:
        words = f"the NVSwitch fabric is in state `{state}` with status {fabric.status}"
        wanted = "state `completed`, status 0"
        return fail(words, wanted=wanted, command=_FABRIC_SERVICE, **place)
    if fabric.health_mask & 3 == 1:  # NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE
        return warn(
            "the NVSwitch fabric runs with reduced bandwidth", wanted="full bandwidth", command="nvidia-smi -q", **place
        )
    return passed("the NVSwitch fabric is set up", **place)


CHECKS = (
    Check(
        id="driver-library-mismatch",
        question="machine",
        group="driver",
        title="Versions of the kernel module and the driver libraries",
        why="After an unattended upgrade, the old module runs with new libraries, and every CUDA program fails.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_mismatch),
        row=4,
    ),
    Check(
        id="libcuda-missing",
        question="machine",
        group="driver",
        title="CUDA driver library (libcuda)",
        why="Without it, torch reports `Found no NVIDIA driver on your system`, although nvidia-smi works.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_libcuda),
        required=True,
        row=5,
    ),
    Check(
        id="cuda-compat-misused",
        question="machine",
        group="driver",
        title="Origin of libcuda",
        why="A compatibility library on the wrong GPU, or the libcuda of another driver, causes CUDA error 803 or 804.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_compat),
        row=12,
    ),
    Check(
        id="fabric-not-ready",
        question="machine",
        group="driver",
        title="State of the NVSwitch fabric",
        why="On HGX and DGX, CUDA programs need a running nvidia-fabricmanager of the same version as the driver.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_fabric),
        row=11,
    ),
)


_WSL_LIBRARIES = "/usr/lib/wsl/lib/"


def _without(case: Case) -> Iterator[Judgement]:
    kind = case.facts.system.container
    state = case.condition("container-without-gpus")
    if kind is None:
        yield skip("not a container")
    elif state is not None:
        verdict = Verdict.FAIL if case.wants_gpu else Verdict.WARN
        yield from_condition(state, _start(kind), verdict)
    elif case.facts.gpus:
        yield passed(
            f"this container ({kind}) has {counted(len(case.facts.gpus), 'GPU')}", source="NVML nvmlDeviceGetCount"
        )
    else:
        yield skip(f"neither this container ({kind}) nor its host has an NVIDIA GPU", source="/sys/bus/pci/devices")


def _start(kind: str) -> str:
    if "podman" in kind or "libpod" in kind:
        return "podman run --rm --device nvidia.com/gpu=all IMAGE nvidia-smi"
    if kind in ("apptainer", "singularity"):
        return "apptainer exec --nv IMAGE nvidia-smi"
    if "kube" in kind:
        return "kubectl describe nodes | grep nvidia.com/gpu"
    return "docker run --rm --gpus all IMAGE nvidia-smi"


def _lost(case: Case) -> Iterator[Judgement]:
    if case.facts.system.container is None:
        yield skip("not a container")
        return
    state = case.condition("container-lost-gpus")
    if state is not None:
        yield from_condition(state, "ls -l /dev/nvidia* /dev/char | grep -i nvidia")
    elif case.facts.gpus:
        yield passed("NVML works in this container", source="NVML nvmlInit")
    else:
        yield skip("this container has no GPU", source="NVML nvmlInit")


def _mig(case: Case) -> Iterator[Judgement]:
    empty = case.condition("mig-without-devices")

    def say(gpu: GpuFacts, mode: Mode) -> Iterable[Judgement]:
        place = {"source": gpu.mig.source, "subject": subject(gpu)}
        if mode.current != mode.pending:
            words = f"MIG is {_word(mode.current)} now, and {_word(mode.pending)} after the next reset"
            yield warn(
                words,
                wanted="the same mode now and after the reset",
                command="nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending --format=csv",
                **place,
            )
        elif not mode.current:
            yield passed("MIG is off", **place)
        elif empty is not None and not _devices(case, gpu):
            words = "MIG is on, but there is no MIG device: torch reports `No CUDA GPUs are available`"
            yield fail(words, wanted=empty.remedy, command="nvidia-smi mig -lgip", **place)
        else:
            words = f"MIG is on with {counted(_devices(case, gpu), 'device')}; NCCL can't connect MIG devices"
            yield info(words, command="nvidia-smi -L", **place)

    yield from each_gpu(case, lambda gpu: gpu.mig, say)


def _devices(case: Case, gpu: GpuFacts) -> int:
    return next((len(known.mig_devices) for known in case.machine.gpus if known.index == gpu.index), 0)


def _word(on: bool) -> str:
    return "on" if on else "off"


def _wsl(case: Case) -> Iterator[Judgement]:
    if not case.facts.system.is_wsl:
        yield skip("not WSL")
        return
    state = case.condition("wsl-without-driver")
    file = case.facts.driver.libcuda.value or ""
    if state is not None:
        verdict = Verdict.FAIL if case.wants_gpu else Verdict.WARN
        yield from_condition(state, "ls /usr/lib/wsl/lib/ /dev/dxg", verdict)
    elif file.startswith("/") and _WSL_LIBRARIES not in file:
        words = f"libcuda is `{file}`, from a Linux driver that was installed inside WSL"
        wanted = f"the library in {_WSL_LIBRARIES}, without a Linux driver inside WSL"
        judgement = fail(words, wanted=wanted, source="/proc/self/maps", command="ldconfig -p | grep libcuda")
        yield judgement
    else:
        yield passed(
            "WSL with the Windows driver, which does not support all signals",
            source="/proc/sys/kernel/osrelease",
        )


CONTAINER_CHECKS = (
    Check(
        id="container-without-gpus",
        question="machine",
        group="container",
        title="GPU access of the container",
        why="If the host has a GPU that the container can't use, training runs on the CPU.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_without),
        row=13,
    ),
    Check(
        id="container-lost-gpu",
        question="machine",
        group="container",
        title="GPUs of a running container",
        why="`Failed to initialize NVML: Unknown Error`: the host removed the devices while the container was running.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_lost),
        row=14,
    ),
    Check(
        id="mig-unusable",
        question="machine",
        group="container",
        title="MIG mode and devices",
        why="Without MIG devices, a GPU in MIG mode is unusable. With them, a program gets a slice of the GPU.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_mig),
        row=17,
    ),
    Check(
        id="wsl-driver",
        question="machine",
        group="container",
        title="NVIDIA driver in WSL",
        why="A Linux driver installed inside WSL hides the Windows driver, which is the one that works.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_wsl),
        row=43,
    ),
)
