"""Checks of the run itself: on which device, and did the process live? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.environment.say import info, passed, skipped
from envforge.verify.training.facts import DeviceFacts, TrainingFacts
from envforge.verify.training.say import failed, on_each_device, on_training
from envforge.verify.values import Check, Judgement, Verdict


def _device(facts: TrainingFacts) -> Iterator[Judgement]:
    """On a GPU where the lock or the machine has one; a CPU run is never passed off as more."""
    locked = facts.locked.value
    wants_gpu = locked is not None and locked.cuda is not None
    names = ", ".join(gpu.name for gpu in facts.machine_gpus)
    if facts.unreadable is not None:
        yield Judgement(
            verdict=Verdict.UNKNOWN,
            observed=f"nothing was measured: {facts.unreadable}",
            wanted="a finished environment with torch",
            command="envforge install",
        )
    elif any(device.is_gpu for device in facts.devices):
        found = ", ".join(device.name for device in facts.devices if device.is_gpu)
        yield passed(f"measured on {found}", source="torch")
    elif wants_gpu and locked is not None:
        yield failed(
            f"measured on the CPU: {_why(facts)}; the machine has {names or 'no GPU that its driver would name'}",
            f"a GPU: the lock has torch {locked.version} for CUDA {locked.cuda or 'as locked'}",
            facts.locked.source,
            command="envforge verify --env",
        )
    elif facts.driver is not None and facts.machine_gpus and locked is None:
        yield failed(
            f"measured on the CPU: {_why(facts)}, although driver {facts.driver} has {names}",
            "training on the GPU",
            command="envforge verify --env",
        )
    elif facts.machine_gpus:
        yield info(f"measured on the CPU, as locked, although there is {names}", source=facts.locked.source)
    else:
        yield passed("measured on the CPU: there is no GPU and none is wanted; this says nothing of any GPU")


def _why(facts: TrainingFacts) -> str:
    return facts.no_gpu or "torch sees no GPU"


def _process(device: DeviceFacts) -> Judgement:
    end = device.process
    if device.running is None and end.is_good:
        return passed(f"{len(device.asked)} measures in {end.seconds:.0f} s")
    last = end.stderr.splitlines()[-1][:400] if end.stderr else "it said nothing"
    where = f" during `{device.running}`" if device.running else ""
    if end.is_late:
        return failed(
            f"{end.in_words}{where}; its last words: {last}",
            "the process comes to its end",
            why="Something hangs, in the driver or a library, or the machine is slower than the limit allows for.",
            command=f"envforge verify --train --limit {end.limit_s * 4:g}",
        )
    meaning = {
        "SIGILL": "SIGILL: a library was built for a newer CPU than this one.",
        "SIGSEGV": "SIGSEGV: mostly a library of another build, or two OpenMP runtimes in one process.",
        "SIGKILL": "SIGKILL: mostly the kernel, out of memory; see dmesg.",
        "SIGBUS": "SIGBUS: mostly a full /dev/shm.",
    }
    return failed(
        f"{end.in_words}{where}; its last words: {last}",
        "the process comes to its end",
        why=meaning.get(end.signal or "", ""),
        command="envforge verify --env",
    )


def _project(device: DeviceFacts) -> Judgement:
    if "project" not in device.asked:
        return skipped(device.project.unreadable or "the project was not asked for")
    if device.project.value is not None:
        return passed(f"the package `{device.project.value}` can be imported", source=device.project.source)
    if "project" in device.raised or device.running == "project":
        return failed(device.project.unreadable or "", "`import` of the project's `train` module", command="git diff")
    return Judgement(verdict=Verdict.UNKNOWN, observed=device.project.unreadable or "the project was not reached")


CHECKS = (
    Check(
        id="trains-on-gpu",
        question="training",
        group="learning",
        title="The training runs on the GPU that is there",
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
        title="The measuring process comes to its end",
        why="A crash or a hang in the driver or a library takes the whole training with it.",
        severity=Verdict.FAIL,
        judge=on_each_device(_process),
        required=True,
        cost="default",
    ),
    Check(
        id="project-not-importable",
        question="training",
        group="learning",
        title="The project's training can be imported",
        why="What cannot be imported cannot be trained.",
        severity=Verdict.FAIL,
        judge=on_each_device(_project),
        cost="default",
    ),
)
