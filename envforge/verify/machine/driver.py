"""Check that there is a GPU, that its driver responds, and that programs, containers, WSL, and MIG can use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from envforge.machine.values import OTHER_GPU, UNREADABLE_SMI, driver_text
from envforge.verify.judging import check, counted, failed, info, passed, skipped, unread, warned
from envforge.verify.machine.case import (
    DRIVER,
    NO_GPU,
    Case,
    GpuCase,
    each_gpu,
    from_condition,
    judge_gpus,
    no_gpus,
    sources,
)
from envforge.verify.machine.facts import Fabric, FabricManager, Mode
from envforge.verify.machine.reference_data import name_of
from envforge.verify.values import Judgement, Verdict

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PCI = "/sys/bus/pci/devices"
_ON_COMPUTE_NODE = "srun --gres=gpu:1 envforge verify"
_LOOK_AT_MODULE = "modinfo nvidia | head -3; sudo dmesg | grep -i nvidia | tail -20"
_LOOK_AT_BUS = "lspci -nnk -d 10de:"
_LOOK_AT_LOG = "sudo dmesg | grep NVRM | tail -20"
_FABRIC_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_FABRIC_NOT_SUPPORTED = 0  # NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
_FABRIC_SERVICE = "systemctl status nvidia-fabricmanager --no-pager"
_WSL_LIBRARIES = "/usr/lib/wsl/lib/"
_STARTS = (  # by a part of the name of the container
    *((name, "podman run --rm --device nvidia.com/gpu=all IMAGE nvidia-smi") for name in ("podman", "libpod")),
    *((name, "apptainer exec --nv IMAGE nvidia-smi") for name in ("apptainer", "singularity")),
    ("kube", "kubectl describe nodes | grep nvidia.com/gpu"),
    ("", "docker run --rm --gpus all IMAGE nvidia-smi"),
)

_presence = partial(check, group="presence")
_driver = partial(check, group="driver")
_container = partial(check, group="container")


@_presence("gpu-missing", "NVIDIA GPU presence", of=DRIVER, required=True, row=1)
def _present(case: Case) -> Judgement:
    """With a CUDA lockfile and no GPU, training runs on the CPU, about a hundred times slower."""
    count = len(case.facts.driver.pci) or len(case.machine.gpus)
    source = _PCI if case.facts.driver.pci else case.machine.source("gpus") or _PCI
    # on the bus or in the driver: a container may see only one of them
    if count:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in case.machine.gpus))
        return passed(counted(count, "NVIDIA GPU") + (f": {names}" if names else ""), source=source)
    if (state := case.condition(UNREADABLE_SMI)) is not None:
        return from_condition(state, "nvidia-smi -L", Verdict.UNKNOWN)
    if case.machine.driver is not None:
        return skipped("there is a driver, but it lists no GPU: see `gpu-count`", source)
    if case.wants_gpu is not False and (other := case.condition(OTHER_GPU)) is not None:
        # without a lockfile of CUDA, the CPU may be what was chosen
        return from_condition(other, case.explain, Verdict.FAIL if case.wants_gpu else Verdict.WARN)
    if not case.wants_gpu:
        judged = info("no NVIDIA GPU: training runs on the CPU", source=source)
        return judged if case.wants_gpu is None else skipped("no NVIDIA GPU, and the lockfile needs none", source)
    return _missing(case)


def _missing(case: Case) -> Judgement:
    cuda = case.needs.cuda if case.needs else None
    wanted = f"an NVIDIA GPU: the lockfile contains CUDA {cuda.version} (`{cuda.package}`)" if cuda else "an NVIDIA GPU"
    if case.described_as:
        return failed(NO_GPU, wanted, case.machine.source("gpus") or "", command=case.explain)
    scheduler = case.facts.system.scheduler
    if scheduler is not None:
        where = "this Slurm job has none" if scheduler == "slurm job" else "a Slurm login node has none"
        return failed(f"no NVIDIA GPU: {where}", wanted, _PCI, command=_ON_COMPUTE_NODE)
    # a container lists the devices of its host, too, so the way out is another build and not another `docker run`
    return failed("no NVIDIA GPU on the PCI bus and no driver", wanted, _PCI, command=case.explain)


@_presence("driver-not-loaded", "NVIDIA kernel module", of=DRIVER, required=True, row=2)
def _loaded(case: Case) -> Judgement:
    """Without it, nvidia-smi reports `couldn't communicate with the NVIDIA driver`, and torch finds no GPU."""
    driver = case.facts.driver
    module = driver.kernel_module
    state = case.condition("no-kernel-module", "gpu-held-by-other-driver")
    if state is not None:
        return from_condition(state, _LOOK_AT_MODULE if state.code == "no-kernel-module" else _LOOK_AT_BUS)
    if case.facts.system.is_wsl or not case.on_linux or driver.is_jetson:
        return skipped("WSL, Windows, macOS, and Jetson have no kernel module `nvidia`", module.source)
    if module.value is not None:
        return passed(f"the kernel module nvidia {module.value} is loaded", source=module.source)
    if driver.nvml.unreadable is None:
        return passed("the driver responds, although its version file is not readable", source=module.source)
    if (case.machine.driver is not None or driver.pci) and not case.silence:
        return unread(module)
    return no_gpus(case)


@_presence("nouveau", "Kernel driver of the GPU", of=DRIVER, row=3)
def _nouveau(case: Case) -> Judgement:
    """The nouveau driver doesn't support CUDA, and keeps NVIDIA's driver from using the GPU."""
    state = case.condition("nouveau")
    held = [gpu.bus_id for gpu in case.facts.driver.pci if gpu.driver == "nouveau"]
    if state is not None:
        return from_condition(state, _LOOK_AT_BUS)
    if held:
        words = f"the kernel driver nouveau uses {', '.join(held)}, alongside NVIDIA's own driver"
        return failed(words, "the driver nvidia", f"{_PCI}/*/driver", command=_LOOK_AT_BUS)
    if not case.facts.driver.pci:
        return no_gpus(case) if case.is_bare else skipped("the PCI bus is not readable", _PCI)
    return passed("nouveau uses no GPU", source=f"{_PCI}/*/driver")


@_presence("driver-silent", "Response of the driver library (NVML)", of=DRIVER, required=True)
def _silent(case: Case) -> Judgement:
    """If the driver hangs, crashes, or returns errors, every CUDA program fails with it."""
    nvml = case.facts.driver.nvml
    state = case.condition("nvml-hangs", "nvml-crashes", "nvml-missing", "nvml-failed")
    if state is not None:
        return from_condition(state, "ldconfig -p | grep nvidia-ml" if state.code == "nvml-missing" else _LOOK_AT_LOG)
    if nvml.unreadable is None:
        return passed("the driver's management library responds", source=nvml.value or nvml.source)
    if case.silence is not None or case.machine.driver is None:
        return no_gpus(case)
    if case.facts.driver.is_jetson:
        return skipped(f"the Jetson driver has no complete NVML: {nvml.unreadable}", nvml.source)
    return unread(nvml)


@_presence("device-files", "Permissions of the GPU device files", of=DRIVER)
def _files(case: Case) -> Judgement:
    """CUDA programs open /dev/nvidia*. Without permission, they find no GPU."""
    files = case.facts.driver.device_files
    if not files:
        return no_gpus(case) if case.is_bare else skipped("no files /dev/nvidia*", "/dev")
    closed = [file.path for file in files if not file.usable]
    words = f"no permission to use {', '.join(closed)}"
    if closed and _are_ours(case, closed):
        return failed(words, "read and write permission", "access", command=f"ls -l {' '.join(closed)}; id")
    if closed:
        return info(f"{words}, but other GPUs are usable", source="access")
    if not any(file.path == "/dev/nvidia-uvm" for file in files) and case.facts.gpus:
        words = "no /dev/nvidia-uvm: the first CUDA program creates it, or the container lacks it"
        return info(words, source="/dev", command="ls -l /dev/nvidia*")
    return passed(f"read and write permission for {', '.join(file.path for file in files)}", source="access")


def _are_ours(case: Case, closed: Sequence[str]) -> bool:
    """Return whether programs need these files: common ones, or those of a GPU that the driver reports."""
    common = [path for path in closed if not path.removeprefix("/dev/nvidia").isdigit()]
    open_gpus = [file for file in case.facts.driver.device_files if file.usable and file.path[-1].isdigit()]
    return bool(common) or len(open_gpus) < max(1, len(case.facts.gpus))


@_presence("gpu-count", "GPUs on the PCI bus and in the driver", of=DRIVER, row=15)
def _count(case: Case) -> Judgement:
    """A GPU that is on the bus but not in the driver is dead, or not available to this job."""
    on_bus, answering = len(case.facts.driver.pci), len(case.facts.gpus)
    state, scheduler = case.condition("driver-sees-no-gpu"), case.facts.system.scheduler
    source = f"{_PCI}; NVML nvmlDeviceGetCount"
    if state is not None:
        return from_condition(state, _LOOK_AT_LOG if scheduler is None else _ON_COMPUTE_NODE)
    if not answering:
        return no_gpus(case)
    # fewer on the bus than in the driver is normal: virtual machines and containers may hide the bus
    if on_bus <= answering:
        return passed(f"the driver reports {counted(answering, 'GPU')}", source=source)
    if case.facts.system.container is not None:
        words = f"{counted(on_bus, 'GPU')} on the host's PCI bus, {answering} available to this container"
        return info(words, source=source)
    words = f"{counted(on_bus, 'GPU')} on the PCI bus, {answering} in the driver"
    if scheduler == "slurm job":
        return info(f"{words}: the scheduler assigned no more to this job", source=source)
    return failed(words, "every GPU on the bus", source, command=_LOOK_AT_LOG)


@_presence("gpus-hidden", "Effect of CUDA_VISIBLE_DEVICES", of=DRIVER, row=16)
def _visible(case: Case) -> Judgement:
    """If a number is wrong or listed twice, torch.cuda.is_available() is False although nvidia-smi works."""
    text, source = case.facts.variables.get(VISIBLE), "environment"
    hidden, unclear = case.condition("gpus-hidden"), case.condition("visible-devices")
    if hidden is not None:
        return from_condition(hidden, f"unset {VISIBLE}")
    if unclear is not None:
        return from_condition(unclear, "nvidia-smi -L", Verdict.WARN)
    if text is None and not case.machine.gpus:
        return no_gpus(case)
    if text is None:
        return passed(f"{VISIBLE} is not set, so programs see every GPU", source=source)
    if not case.machine.gpus:
        return info(f"{VISIBLE} is `{text}`, but there is no GPU", source=source)
    seen = ", ".join(str(gpu.index) for gpu in case.machine.visible_gpus)
    return passed(f"{VISIBLE} is `{text}`: programs see GPU {seen}", source=source)


@_presence("different-gpus", "Models of the GPUs", of=DRIVER, severity=Verdict.INFO)
def _alike(case: Case) -> Judgement:
    """A run over different GPUs waits for the slowest, and torch needs kernels for each of them."""
    state = case.condition("different-gpus")
    if state is not None:
        return info(f"{state.symptom}; {state.cause}", source="NVML", command="export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    if len(case.machine.gpus) < 2:
        return no_gpus(case) if case.is_bare else skipped("only one GPU")
    return passed(f"{len(case.machine.gpus)} GPUs of the same model", source="NVML")


@_driver("driver-library-mismatch", "Versions of the kernel module and the driver libraries", of=DRIVER, row=4)
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


@_driver("libcuda-missing", "CUDA driver library (libcuda)", of=DRIVER, required=True, row=5)
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


@_driver("cuda-compat-misused", "Origin of libcuda", of=DRIVER, row=12)
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


@_driver("fabric-not-ready", "State of the NVSwitch fabric", of=DRIVER, row=11)
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


@_container("container-without-gpus", "GPU access of the container", of=DRIVER, row=13)
def _without(case: Case) -> Judgement:
    """If the host has a GPU that the container can't use, training runs on the CPU."""
    kind, state = case.facts.system.container, case.condition("container-without-gpus")
    if kind is None:
        return skipped("not a container")
    if state is not None:
        command = next(command for part, command in _STARTS if part in kind)
        return from_condition(state, command, Verdict.FAIL if case.wants_gpu else Verdict.WARN)
    if case.facts.gpus:
        words = f"this container ({kind}) has {counted(len(case.facts.gpus), 'GPU')}"
        return passed(words, source="NVML nvmlDeviceGetCount")
    return skipped(f"neither this container ({kind}) nor its host has an NVIDIA GPU", "/sys/bus/pci/devices")


@_container("container-lost-gpu", "GPUs of a running container", of=DRIVER, row=14)
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


@_container("mig-unusable", "MIG mode and devices", of=each_gpu(lambda gpu: gpu.mig), row=17)
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


@_container("wsl-driver", "NVIDIA driver in WSL", of=DRIVER, row=43)
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
