"""Check the device that was trained on, and how the measuring process exited."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.findings import failed, info, on_each_device, on_training, passed, skipped
from envforge.verify.judging import counted
from envforge.verify.training.facts import DeviceFacts, TrainingFacts
from envforge.verify.values import Check, Judgement, Verdict


def _device(facts: TrainingFacts) -> Iterator[Judgement]:
    """Judge the device: a CPU run fails if the lockfile or the machine has a GPU."""
    locked = facts.locked.value
    wants_gpu = locked is not None and locked.cuda is not None
    names = ", ".join(gpu.name for gpu in facts.machine_gpus)
    if facts.unreadable is not None:
        yield Judgement(
            verdict=Verdict.UNKNOWN,
            observed=f"nothing was measured: {facts.unreadable}",
            wanted="a complete environment with torch",
            command="envforge install",
        )
    elif any(device.is_gpu for device in facts.devices):
        found = ", ".join(device.name for device in facts.devices if device.is_gpu)
        yield passed(f"measured on {found}", source="torch")
    elif wants_gpu and locked is not None:
        yield failed(
            f"measured on the CPU: {_why(facts)}; the machine has {names or 'no GPU that its driver reports'}",
            f"a GPU: the lockfile contains torch {locked.version} for CUDA{f' {locked.cuda}' if locked.cuda else ''}",
            facts.locked.source,
            command="envforge verify env",
        )
    elif facts.driver is not None and facts.machine_gpus and locked is None:
        yield failed(
            f"measured on the CPU: {_why(facts)}, although driver {facts.driver} reports {names}",
            "training on the GPU",
            command="envforge verify env",
        )
    elif facts.machine_gpus:
        yield info(
            f"measured on the CPU, because the lockfile contains a CPU build, although there is {names}",
            source=facts.locked.source,
        )
    else:
        yield passed("measured on the CPU: there is no GPU, and none is required. The result doesn't apply to GPUs")


def _why(facts: TrainingFacts) -> str:
    return facts.no_gpu or "torch finds no GPU"


def _process(device: DeviceFacts) -> Judgement:
    end = device.process
    if device.running is None and end.is_good:
        return passed(f"{counted(len(device.asked), 'measurement')} in {end.seconds:.0f} s")
    last = end.stderr.splitlines()[-1][:400] if end.stderr else "nothing"
    where = f" during `{device.running}`" if device.running else ""
    if end.is_late:
        return failed(
            f"{end.in_words}{where}; last line of stderr: {last}",
            "exit code 0",
            why="The driver or a library hangs, or the machine is too slow for the limit.",
            command=f"envforge verify train --limit {end.limit_s * 4:g}",
        )
    meaning = {
        "SIGILL": "SIGILL: a library was built for a newer CPU.",
        "SIGSEGV": "SIGSEGV: usually a library of another build, or two OpenMP runtimes in one process.",
        "SIGKILL": "SIGKILL: usually the kernel, because the machine ran out of memory; see dmesg.",
        "SIGBUS": "SIGBUS: usually a full /dev/shm.",
    }
    return failed(
        f"{end.in_words}{where}; last line of stderr: {last}",
        "exit code 0",
        why=meaning.get(end.signal or "", ""),
        command="envforge verify env",
    )


def _project(device: DeviceFacts) -> Judgement:
    if "project" not in device.asked:
        return skipped(device.project.unreadable or "the project was not requested")
    if device.project.value is not None:
        return passed(f"the package `{device.project.value}` was imported", source=device.project.source)
    if "project" in device.raised or device.running == "project":
        return failed(
            device.project.unreadable or "", "a successful import of the project's `train` module", command="git diff"
        )
    return Judgement(verdict=Verdict.UNKNOWN, observed=device.project.unreadable or "the project was not imported")


CHECKS = (
    Check(
        id="trains-on-gpu",
        question="training",
        group="learning",
        title="Training device",
        why="Training that falls back to the CPU runs without an error, tens of times slower.",
        severity=Verdict.FAIL,
        judge=on_training(_device),
        required=True,
        cost="default",
    ),
    Check(
        id="process-died",
        question="training",
        group="learning",
        title="Exit of the measuring process",
        why="A crash or hang in the driver or a library stops the complete training run.",
        severity=Verdict.FAIL,
        judge=on_each_device(_process),
        required=True,
        cost="default",
    ),
    Check(
        id="project-not-importable",
        question="training",
        group="learning",
        title="Import of the project's training code",
        why="If the code can't be imported, it can't be trained.",
        severity=Verdict.FAIL,
        judge=on_each_device(_project),
        cost="default",
    ),
)
