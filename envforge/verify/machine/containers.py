"""Check the GPU in containers, WSL, and MIG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.verify.machine.gpu_facts import GpuFacts, Mode
from envforge.verify.machine.judging import (
    Case,
    counted,
    each_gpu,
    fail,
    from_condition,
    info,
    judged_of_gpu,
    passed,
    skip,
    subject,
    warn,
)
from envforge.verify.values import Check, Judgement, Verdict

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


CHECKS = (
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
