"""Check that there is a GPU, that its driver responds, and that programs can see it."""

from __future__ import annotations

from collections.abc import Sequence

from envforge.verify.judging import check, counted, failed, info, passed, skipped, unread
from envforge.verify.machine.case import DRIVER, NO_GPU, Case, from_condition, no_gpus
from envforge.verify.values import Judgement, Verdict

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PCI = "/sys/bus/pci/devices"
_ON_COMPUTE_NODE = "srun --gres=gpu:1 envforge verify"
_LOOK_AT_MODULE = "modinfo nvidia | head -3; sudo dmesg | grep -i nvidia | tail -20"
_LOOK_AT_BUS = "lspci -nnk -d 10de:"
_LOOK_AT_LOG = "sudo dmesg | grep NVRM | tail -20"


@check("gpu-missing", "NVIDIA GPU presence", of=DRIVER, group="presence", required=True, row=1)
def _present(case: Case) -> Judgement:
    """With a CUDA lockfile and no GPU, training runs on the CPU, about a hundred times slower."""
    count = len(case.facts.driver.pci) or len(case.machine.gpus)
    source = _PCI if case.facts.driver.pci else case.machine.source("gpus") or _PCI
    if count:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in case.machine.gpus))
        return passed(counted(count, "NVIDIA GPU") + (f": {names}" if names else ""), source=source)
    if case.machine.driver is not None:
        return skipped("there is a driver, but it lists no GPU: see `gpu-count`", source)
    if case.wants_gpu:
        return _missing(case)
    if case.wants_gpu is False:
        return skipped("no NVIDIA GPU, and the lockfile needs none", source)
    return info("no NVIDIA GPU: training runs on the CPU", source=source)


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


@check("driver-not-loaded", "NVIDIA kernel module", of=DRIVER, group="presence", required=True, row=2)
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


@check("nouveau", "Kernel driver of the GPU", of=DRIVER, group="presence", row=3)
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


@check("driver-silent", "Response of the driver library (NVML)", of=DRIVER, group="presence", required=True)
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


@check("device-files", "Permissions of the GPU device files", of=DRIVER, group="presence")
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


@check("gpu-count", "GPUs on the PCI bus and in the driver", of=DRIVER, group="presence", row=15)
def _count(case: Case) -> Judgement:
    """A GPU that is on the bus but not in the driver is dead, or not available to this job."""
    on_bus, answering = len(case.facts.driver.pci), len(case.facts.gpus)
    state, scheduler = case.condition("driver-sees-no-gpu"), case.facts.system.scheduler
    source = f"{_PCI}; NVML nvmlDeviceGetCount"
    if state is not None:
        return from_condition(state, _LOOK_AT_LOG if scheduler is None else _ON_COMPUTE_NODE)
    if not answering:
        return no_gpus(case)
    if on_bus <= answering:
        return passed(f"the driver reports {counted(answering, 'GPU')}", source=source)
    if case.facts.system.container is not None:
        words = f"{counted(on_bus, 'GPU')} on the host's PCI bus, {answering} available to this container"
        return info(words, source=source)
    words = f"{counted(on_bus, 'GPU')} on the PCI bus, {answering} in the driver"
    if scheduler == "slurm job":
        return info(f"{words}: the scheduler assigned no more to this job", source=source)
    return failed(words, "every GPU on the bus", source, command=_LOOK_AT_LOG)


@check("gpus-hidden", "Effect of CUDA_VISIBLE_DEVICES", of=DRIVER, group="presence", row=16)
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


@check("different-gpus", "Models of the GPUs", of=DRIVER, group="presence", severity=Verdict.INFO)
def _alike(case: Case) -> Judgement:
    """A run over different GPUs waits for the slowest, and torch needs kernels for each of them."""
    state = case.condition("different-gpus")
    if state is not None:
        return info(f"{state.symptom}; {state.cause}", source="NVML", command="export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    if len(case.machine.gpus) < 2:
        return no_gpus(case) if case.is_bare else skipped("only one GPU")
    return passed(f"{len(case.machine.gpus)} GPUs of the same model", source="NVML")
