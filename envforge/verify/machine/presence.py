"""Checks of presence: there is a GPU, its driver answers, and programs see what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from envforge.verify.machine.judging import (
    Case,
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
_GO_ON_COMPUTE_NODE = "srun --gres=gpu:1 envforge verify"
_LOOK_AT_MODULE = "modinfo nvidia | head -3; sudo dmesg | grep -i nvidia | tail -20"
_LOOK_AT_BUS = "lspci -nnk -d 10de:"


def _present(case: Case) -> Iterator[Judgement]:
    count = len(case.facts.driver.pci) or len(case.machine.gpus)
    source = _PCI if case.facts.driver.pci else case.machine.source("gpus") or _PCI
    if count:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in case.machine.gpus))
        yield passed(f"{count} NVIDIA GPU(s)" + (f": {names}" if names else ""), source=source)
    elif case.machine.driver is not None:
        yield skip("there is a driver here, which lists no GPU: see `gpu-count`", source=source)
    elif case.wants_gpu:
        yield _missing(case)
    elif case.wants_gpu is False:
        yield skip("there is no NVIDIA GPU here, and the lock needs none", source=source)
    else:
        yield info("there is no NVIDIA GPU here: training runs on the CPU", source=source)


def _missing(case: Case) -> Judgement:
    cuda = case.needs.cuda if case.needs else None
    wanted = f"an NVIDIA GPU: `{cuda.package}` brings CUDA {cuda.version}" if cuda else "an NVIDIA GPU"
    scheduler = case.facts.system.scheduler
    if scheduler is not None:
        where = (
            "in a Slurm job that was given none" if scheduler == "slurm job" else "and a login node of Slurm has none"
        )
        return fail(f"no NVIDIA GPU here, {where}", wanted=wanted, source=_PCI, command=_GO_ON_COMPUTE_NODE)
    command = "docker run --rm --gpus all IMAGE nvidia-smi" if case.facts.system.container else _LOOK_AT_BUS
    return fail("no NVIDIA GPU on the PCI bus and no driver", wanted=wanted, source=_PCI, command=command)


def _loaded(case: Case) -> Iterator[Judgement]:
    module = case.facts.driver.kernel_module
    state = case.condition("no-kernel-module", "gpu-held-by-other-driver")
    if state is not None:
        command = _LOOK_AT_MODULE if state.code == "no-kernel-module" else _LOOK_AT_BUS
        yield from_condition(state, command)
    elif case.facts.system.is_wsl or case.machine.platform.startswith(("win-", "osx-")) or case.facts.driver.is_jetson:
        yield skip("the driver has no kernel module `nvidia` here (WSL, Windows, macOS, Jetson)", source=module.source)
    elif module.value is not None:
        yield passed(f"the kernel module nvidia {module.value} is loaded", source=module.source)
    elif case.facts.driver.nvml.unreadable is None:
        yield passed("the driver answers, though its version file is not shown here", source=module.source)
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
        words = f"the kernel driver nouveau holds {', '.join(held)}, beside NVIDIA's own driver"
        yield fail(words, wanted="the driver nvidia", source=f"{_PCI}/*/driver", command=_LOOK_AT_BUS)
    elif not case.facts.driver.pci:
        yield no_gpus(case) if case.is_bare else skip("the PCI bus is not shown here", source=_PCI)
    else:
        yield passed("nouveau holds no GPU", source=f"{_PCI}/*/driver")


def _silent(case: Case) -> Iterator[Judgement]:
    nvml = case.facts.driver.nvml
    state = case.condition("nvml-hangs", "nvml-crashes", "nvml-missing", "nvml-failed")
    if state is not None:
        command = (
            "ldconfig -p | grep nvidia-ml" if state.code == "nvml-missing" else "sudo dmesg | grep NVRM | tail -20"
        )
        yield from_condition(state, command)
    elif nvml.unreadable is None:
        yield passed("the driver's management library answers", source=nvml.value or nvml.source)
    elif case.silence is not None or case.machine.driver is None:
        yield no_gpus(case)
    elif case.facts.driver.is_jetson:
        yield skip(f"Jetson's driver has no complete NVML: {nvml.unreadable}", source=nvml.source)
    else:
        yield unread(nvml)


def _count(case: Case) -> Iterator[Judgement]:
    on_bus, answering = len(case.facts.driver.pci), len(case.facts.gpus)
    state = case.condition("driver-sees-no-gpu")
    source = f"{_PCI}; NVML nvmlDeviceGetCount"
    if state is not None:
        slurm = case.facts.system.scheduler is not None
        yield from_condition(state, _GO_ON_COMPUTE_NODE if slurm else "sudo dmesg | grep NVRM | tail -20")
    elif not answering:
        yield no_gpus(case)
    elif on_bus > answering and case.facts.system.container is not None:
        words = f"{on_bus} GPUs on the host's bus, {answering} given to this container"
        yield info(words, source=source)
    elif on_bus > answering:
        words = f"{on_bus} GPUs on the PCI bus, and the driver answers for {answering}"
        wanted = "every GPU that is on the bus"
        command = "sudo dmesg | grep NVRM | tail -20"
        if case.facts.system.scheduler == "slurm job":
            yield info(words + ": the scheduler gives this job no more", source=source)
        else:
            yield fail(words, wanted=wanted, source=source, command=command)
    else:
        yield passed(f"the driver answers for {answering} GPU(s)", source=source)


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
        yield passed(f"{VISIBLE} is not set: programs see every GPU", source="environment")
    elif not case.machine.gpus:
        yield info(f"{VISIBLE} is `{text}`, and there is no GPU whose number it could be", source="environment")
    else:
        seen = ", ".join(str(gpu.index) for gpu in case.machine.visible_gpus)
        yield passed(f"{VISIBLE} is `{text}`: programs see GPU {seen}", source="environment")


def _alike(case: Case) -> Iterator[Judgement]:
    state = case.condition("different-gpus")
    if state is not None:
        yield info(f"{state.symptom}; {state.cause}", source="NVML", command="export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    elif len(case.machine.gpus) < 2:
        yield no_gpus(case) if case.is_bare else skip("there is one GPU here")
    else:
        yield passed(f"{len(case.machine.gpus)} GPUs of one kind", source="NVML")


def _files(case: Case) -> Iterator[Judgement]:
    files = case.facts.driver.device_files
    if not files:
        yield no_gpus(case) if case.is_bare else skip("there are no files /dev/nvidia* here", source="/dev")
        return
    closed = [file.path for file in files if not file.usable]
    if closed and _are_ours(case, closed):
        words = f"this user may not use {', '.join(closed)}"
        command = f"ls -l {' '.join(closed)}; id"
        yield fail(words, wanted="to read and write them", source="access", command=command)
    elif closed:
        yield info(f"this user may not use {', '.join(closed)}, and has GPUs beside them", source="access")
    elif not any(file.path == "/dev/nvidia-uvm" for file in files) and case.facts.gpus:
        words = "there is no /dev/nvidia-uvm: it appears with the first CUDA program, or the container was not given it"
        yield info(words, source="/dev", command="ls -l /dev/nvidia*")
    else:
        yield passed(f"this user may use {', '.join(file.path for file in files)}", source="access")


def _are_ours(case: Case, closed: Sequence[str]) -> bool:
    """Whether programs miss these files: common ones, or more GPUs' than the driver answers for beside them."""
    common = [path for path in closed if not path.removeprefix("/dev/nvidia").isdigit()]
    open_gpus = [file for file in case.facts.driver.device_files if file.usable and file.path[-1].isdigit()]
    return bool(common) or len(open_gpus) < max(1, len(case.facts.gpus))


def _lost(case: Case) -> Iterator[Judgement]:
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        reason = gpu.handle.unreadable
        if reason is None:
            yield passed("the GPU answers", source=gpu.handle.source, subject=subject(gpu))
        elif reason.startswith(("NVML error 15", "NVML error 16")):
            yield fail(
                f"the GPU is lost ({reason})",
                wanted="a GPU that answers: its administrator resets it or reboots",
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
        title="an NVIDIA GPU is here",
        why="A lock with CUDA on a machine without a GPU trains on the CPU, a hundred times slower",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_present),
        required=True,
        row=1,
    ),
    Check(
        id="driver-not-loaded",
        question="machine",
        group="presence",
        title="the NVIDIA kernel module is loaded",
        why="Without it nvidia-smi says `couldn't communicate with the NVIDIA driver`, and torch finds no GPU",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_loaded),
        required=True,
        row=2,
    ),
    Check(
        id="nouveau",
        question="machine",
        group="presence",
        title="the GPU is not held by nouveau",
        why="nouveau runs no CUDA, and keeps NVIDIA's driver from the GPU",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_nouveau),
        row=3,
    ),
    Check(
        id="driver-silent",
        question="machine",
        group="presence",
        title="the driver's library answers",
        why="A driver that hangs, crashes or refuses takes every CUDA program with it",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_silent),
        required=True,
    ),
    Check(
        id="device-files",
        question="machine",
        group="presence",
        title="this user may use the GPU's device files",
        why="CUDA programs open /dev/nvidia*; without permission they find no GPU",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_files),
    ),
    Check(
        id="gpu-count",
        question="machine",
        group="presence",
        title="the driver answers for every GPU on the bus",
        why="A GPU that is on the bus and not in the driver is dead, or kept from this job",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_count),
        row=15,
    ),
    Check(
        id="gpus-hidden",
        question="machine",
        group="presence",
        title="CUDA_VISIBLE_DEVICES says what it seems to say",
        why="torch.cuda.is_available() is false with a healthy nvidia-smi where a number is wrong or stands twice",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_visible),
        row=16,
    ),
    Check(
        id="different-gpus",
        question="machine",
        group="presence",
        title="the GPUs are alike",
        why="One run over different GPUs waits for the slowest, and a build must hold kernels for each",
        severity=Verdict.INFO,
        judge=judged_of_gpu(_alike),
    ),
    Check(
        id="gpu-lost",
        question="machine",
        group="health",
        title="every GPU answers",
        why="`GPU has fallen off the bus`: programs on it end or hang, and it does not come back by itself",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_lost),
        required=True,
        row=18,
    ),
)
