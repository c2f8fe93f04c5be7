"""Check that there is a GPU, that its driver responds, and that programs can see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from envforge.verify.machine.judging import (
    Case,
    counted,
    fail,
    from_condition,
    info,
    judged_of_gpu,
    no_gpus,
    passed,
    skip,
    subject,
    unread,
)
from envforge.verify.values import Check, Judgement, Verdict

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PCI = "/sys/bus/pci/devices"
_ON_COMPUTE_NODE = "srun --gres=gpu:1 envforge verify"
_LOOK_AT_MODULE = "modinfo nvidia | head -3; sudo dmesg | grep -i nvidia | tail -20"
_LOOK_AT_BUS = "lspci -nnk -d 10de:"


def _present(case: Case) -> Iterator[Judgement]:
    count = len(case.facts.driver.pci) or len(case.machine.gpus)
    source = _PCI if case.facts.driver.pci else case.machine.source("gpus") or _PCI
    if count:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in case.machine.gpus))
        yield passed(counted(count, "NVIDIA GPU") + (f": {names}" if names else ""), source=source)
    elif case.machine.driver is not None:
        yield skip("there is a driver, but it lists no GPU: see `gpu-count`", source=source)
    elif case.wants_gpu:
        yield _missing(case)
    elif case.wants_gpu is False:
        yield skip("no NVIDIA GPU, and the lockfile needs none", source=source)
    else:
        yield info("no NVIDIA GPU: training runs on the CPU", source=source)


def _missing(case: Case) -> Judgement:
    cuda = case.needs.cuda if case.needs else None
    wanted = f"an NVIDIA GPU: the lockfile contains CUDA {cuda.version} (`{cuda.package}`)" if cuda else "an NVIDIA GPU"
    if case.described_as:
        return fail("no NVIDIA GPU", wanted=wanted, source=case.machine.source("gpus") or "", command=case.explain)
    scheduler = case.facts.system.scheduler
    if scheduler is not None:
        where = "this Slurm job has none" if scheduler == "slurm job" else "a Slurm login node has none"
        return fail(f"no NVIDIA GPU: {where}", wanted=wanted, source=_PCI, command=_ON_COMPUTE_NODE)
    # a container lists the devices of its host, too, so the way out is another build and not another `docker run`
    return fail("no NVIDIA GPU on the PCI bus and no driver", wanted=wanted, source=_PCI, command=case.explain)


def _loaded(case: Case) -> Iterator[Judgement]:
    module = case.facts.driver.kernel_module
    state = case.condition("no-kernel-module", "gpu-held-by-other-driver")
    if state is not None:
        command = _LOOK_AT_MODULE if state.code == "no-kernel-module" else _LOOK_AT_BUS
        yield from_condition(state, command)
    elif case.facts.system.is_wsl or case.machine.platform.startswith(("win-", "osx-")) or case.facts.driver.is_jetson:
        yield skip("WSL, Windows, macOS, and Jetson have no kernel module `nvidia`", source=module.source)
    elif module.value is not None:
        yield passed(f"the kernel module nvidia {module.value} is loaded", source=module.source)
    elif case.facts.driver.nvml.unreadable is None:
        yield passed("the driver responds, although its version file is not readable", source=module.source)
    elif case.machine.driver is not None or case.facts.driver.pci:
        yield no_gpus(case) if case.silence else unread(module)
    else:
        yield no_gpus(case)


def _nouveau(case: Case) -> Iterator[Judgement]:
    state = case.condition("nouveau")
    held = [gpu.bus_id for gpu in case.facts.driver.pci if gpu.driver == "nouveau"]
    if state is not None:
        yield from_condition(state, _LOOK_AT_BUS)
    elif held:
        words = f"the kernel driver nouveau uses {', '.join(held)}, alongside NVIDIA's own driver"
        yield fail(words, wanted="the driver nvidia", source=f"{_PCI}/*/driver", command=_LOOK_AT_BUS)
    elif not case.facts.driver.pci:
        yield no_gpus(case) if case.is_bare else skip("the PCI bus is not readable", source=_PCI)
    else:
        yield passed("nouveau uses no GPU", source=f"{_PCI}/*/driver")


def _silent(case: Case) -> Iterator[Judgement]:
    nvml = case.facts.driver.nvml
    state = case.condition("nvml-hangs", "nvml-crashes", "nvml-missing", "nvml-failed")
    if state is not None:
        command = (
            "ldconfig -p | grep nvidia-ml" if state.code == "nvml-missing" else "sudo dmesg | grep NVRM | tail -20"
        )
        yield from_condition(state, command)
    elif nvml.unreadable is None:
        yield passed("the driver's management library responds", source=nvml.value or nvml.source)
    elif case.silence is not None or case.machine.driver is None:
        yield no_gpus(case)
    elif case.facts.driver.is_jetson:
        yield skip(f"the Jetson driver has no complete NVML: {nvml.unreadable}", source=nvml.source)
    else:
        yield unread(nvml)


def _count(case: Case) -> Iterator[Judgement]:
    on_bus, answering = len(case.facts.driver.pci), len(case.facts.gpus)
    state = case.condition("driver-sees-no-gpu")
    source = f"{_PCI}; NVML nvmlDeviceGetCount"
    if state is not None:
        slurm = case.facts.system.scheduler is not None
        yield from_condition(state, _ON_COMPUTE_NODE if slurm else "sudo dmesg | grep NVRM | tail -20")
    elif not answering:
        yield no_gpus(case)
    elif on_bus > answering and case.facts.system.container is not None:
        words = f"{counted(on_bus, 'GPU')} on the host's PCI bus, {answering} available to this container"
        yield info(words, source=source)
    elif on_bus > answering:
        words = f"{counted(on_bus, 'GPU')} on the PCI bus, {answering} in the driver"
        wanted = "every GPU on the bus"
        command = "sudo dmesg | grep NVRM | tail -20"
        if case.facts.system.scheduler == "slurm job":
            yield info(words + ": the scheduler assigned no more to this job", source=source)
        else:
            yield fail(words, wanted=wanted, source=source, command=command)
    else:
        yield passed(f"the driver reports {counted(answering, 'GPU')}", source=source)


def _visible(case: Case) -> Iterator[Judgement]:
    text = case.facts.variables.get(VISIBLE)
    hidden, unclear = case.condition("gpus-hidden"), case.condition("visible-devices")
    if hidden is not None:
        yield from_condition(hidden, f"unset {VISIBLE}")
    elif unclear is not None:
        yield from_condition(unclear, "nvidia-smi -L", Verdict.WARN)
    elif text is None and not case.machine.gpus:
        yield no_gpus(case)
    elif text is None:
        yield passed(f"{VISIBLE} is not set, so programs see every GPU", source="environment")
    elif not case.machine.gpus:
        yield info(f"{VISIBLE} is `{text}`, but there is no GPU", source="environment")
    else:
        seen = ", ".join(str(gpu.index) for gpu in case.machine.visible_gpus)
        yield passed(f"{VISIBLE} is `{text}`: programs see GPU {seen}", source="environment")


def _alike(case: Case) -> Iterator[Judgement]:
    state = case.condition("different-gpus")
    if state is not None:
        yield info(f"{state.symptom}; {state.cause}", source="NVML", command="export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    elif len(case.machine.gpus) < 2:
        yield no_gpus(case) if case.is_bare else skip("only one GPU")
    else:
        yield passed(f"{len(case.machine.gpus)} GPUs of the same model", source="NVML")


def _files(case: Case) -> Iterator[Judgement]:
    files = case.facts.driver.device_files
    if not files:
        yield no_gpus(case) if case.is_bare else skip("no files /dev/nvidia*", source="/dev")
        return
    closed = [file.path for file in files if not file.usable]
    if closed and _are_ours(case, closed):
        words = f"no permission to use {', '.join(closed)}"
        command = f"ls -l {' '.join(closed)}; id"
        yield fail(words, wanted="read and write permission", source="access", command=command)
    elif closed:
        yield info(f"no permission to use {', '.join(closed)}, but other GPUs are usable", source="access")
    elif not any(file.path == "/dev/nvidia-uvm" for file in files) and case.facts.gpus:
        words = "no /dev/nvidia-uvm: the first CUDA program creates it, or the container lacks it"
        yield info(words, source="/dev", command="ls -l /dev/nvidia*")
    else:
        yield passed(f"read and write permission for {', '.join(file.path for file in files)}", source="access")


def _are_ours(case: Case, closed: Sequence[str]) -> bool:
    """Return whether programs need these files: common ones, or those of a GPU that the driver reports."""
    common = [path for path in closed if not path.removeprefix("/dev/nvidia").isdigit()]
    open_gpus = [file for file in case.facts.driver.device_files if file.usable and file.path[-1].isdigit()]
    return bool(common) or len(open_gpus) < max(1, len(case.facts.gpus))


def _lost(case: Case) -> Iterator[Judgement]:
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        reason = gpu.handle.unreadable
        if reason is None:
            yield passed("the GPU responds", source=gpu.handle.source, subject=subject(gpu))
        # NVML_ERROR_GPU_IS_LOST and NVML_ERROR_RESET_REQUIRED
        elif reason.startswith(("NVML error 15", "NVML error 16")):
            yield fail(
                f"the GPU is lost ({reason})",
                wanted="a GPU that responds; a reset or a reboot by the administrator can restore it",
                source=gpu.handle.source,
                subject=subject(gpu),
                command="sudo dmesg | grep NVRM | tail -20",
            )
        else:
            yield unread(gpu.handle, subject=subject(gpu))


CHECKS = (
    Check(
        id="gpu-missing",
        question="machine",
        group="presence",
        title="NVIDIA GPU presence",
        why="With a CUDA lockfile and no GPU, training runs on the CPU, about a hundred times slower.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_present),
        required=True,
        row=1,
    ),
    Check(
        id="driver-not-loaded",
        question="machine",
        group="presence",
        title="NVIDIA kernel module",
        why="Without it, nvidia-smi reports `couldn't communicate with the NVIDIA driver`, and torch finds no GPU.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_loaded),
        required=True,
        row=2,
    ),
    Check(
        id="nouveau",
        question="machine",
        group="presence",
        title="Kernel driver of the GPU",
        why="The nouveau driver doesn't support CUDA, and keeps NVIDIA's driver from using the GPU.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_nouveau),
        row=3,
    ),
    Check(
        id="driver-silent",
        question="machine",
        group="presence",
        title="Response of the driver library (NVML)",
        why="If the driver hangs, crashes, or returns errors, every CUDA program fails with it.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_silent),
        required=True,
    ),
    Check(
        id="device-files",
        question="machine",
        group="presence",
        title="Permissions of the GPU device files",
        why="CUDA programs open /dev/nvidia*. Without permission, they find no GPU.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_files),
    ),
    Check(
        id="gpu-count",
        question="machine",
        group="presence",
        title="GPUs on the PCI bus and in the driver",
        why="A GPU that is on the bus but not in the driver is dead, or not available to this job.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_count),
        row=15,
    ),
    Check(
        id="gpus-hidden",
        question="machine",
        group="presence",
        title="Effect of CUDA_VISIBLE_DEVICES",
        why="If a number is wrong or listed twice, torch.cuda.is_available() is False although nvidia-smi works.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_visible),
        row=16,
    ),
    Check(
        id="different-gpus",
        question="machine",
        group="presence",
        title="Models of the GPUs",
        why="A run over different GPUs waits for the slowest, and torch needs kernels for each of them.",
        severity=Verdict.INFO,
        judge=judged_of_gpu(_alike),
    ),
    Check(
        id="gpu-lost",
        question="machine",
        group="health",
        title="Response of each GPU",
        why="`GPU has fallen off the bus`: programs on it fail or hang, and it doesn't recover without a reset.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_lost),
        required=True,
        row=18,
    ),
)
