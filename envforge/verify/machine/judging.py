"""What the machine's judges share: who wants a GPU, how an unreadable signal is said, one judgement for each GPU.

Enters: a ``Record``. Leaves: values and ``Judgement``. Nothing here reads the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from envforge.machine import Condition, Machine
from envforge.machine.record import machine_from_json
from envforge.verify.machine.facts import LockNeeds, MachineFacts
from envforge.verify.machine.gpu_facts import GpuFacts
from envforge.verify.machine.signals import NO_PERMISSION, NOT_SUPPORTED
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

T = TypeVar("T")

NO_GPU = "there is no NVIDIA GPU here"

# What keeps the driver from answering for its GPUs; each has a check of its own.
DRIVER_STATES = {
    "container-lost-gpus": "container-lost-gpu",
    "container-without-gpus": "container-without-gpus",
    "driver-library-mismatch": "driver-library-mismatch",
    "driver-sees-no-gpu": "gpu-count",
    "gpu-held-by-other-driver": "driver-not-loaded",
    "no-kernel-module": "driver-not-loaded",
    "nouveau": "nouveau",
    "nvml-crashes": "driver-silent",
    "nvml-failed": "driver-silent",
    "nvml-hangs": "driver-silent",
    "nvml-missing": "driver-silent",
    "wsl-without-driver": "wsl-driver",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A record as the machine's judges see it."""

    facts: MachineFacts
    machine: Machine

    @property
    def needs(self) -> LockNeeds | None:
        """What the lock needs, where there is one that can be read and that has this platform."""
        needs = self.facts.lock.value
        return needs if needs is not None and needs.platform in needs.platforms else None

    @property
    def wants_gpu(self) -> bool | None:
        """Whether the lock brings CUDA; None where no lock says so."""
        needs = self.needs
        return None if needs is None else needs.cuda is not None

    def condition(self, *codes: str) -> Condition | None:
        """The first of these states that the machine is in."""
        return next((condition for condition in self.machine.conditions if condition.code in codes), None)

    def hides(self, gpu: GpuFacts) -> bool:
        """Whether programs surely do not see this GPU, while they see another.

        With different GPUs CUDA numbers the fastest first, so that numbers alone tell nothing.
        """
        visible = self.machine.visible
        by_bus = self.facts.variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        sure = by_bus or len({known.name for known in self.machine.gpus}) < 2
        return bool(visible) and sure and gpu.index not in (visible or ())

    @property
    def is_bare(self) -> bool:
        """Whether there is no sign of NVIDIA: no device on the bus, no driver, no GPU."""
        return not self.facts.driver.pci and self.machine.driver is None and not self.machine.gpus

    @property
    def silence(self) -> Condition | None:
        """Why the driver does not answer for its GPUs."""
        return self.condition(*DRIVER_STATES)


Say = Callable[[Case], Iterable[Judgement]]


def judged(say: Say) -> Callable[[Record], Iterable[Judgement]]:
    """A judge of the record from one of the case: where the machine was not observed, that is all there is to say."""

    def judge(record: Record) -> Iterable[Judgement]:
        if record.machine is None:
            return (skip("the machine was not observed"),)
        return say(Case(facts=record.machine, machine=machine_from_json(record.machine.machine, "the record")))

    return judge


def judged_of_gpu(say: Say) -> Callable[[Record], Iterable[Judgement]]:
    """As ``judged``, for what concerns the GPU alone: where the lock wants none, a fault is a fact and no more."""

    def weigh(case: Case) -> Iterable[Judgement]:
        found = say(case)
        if case.wants_gpu is False:
            return tuple(without_weight(judgement, "nothing: the lock needs no GPU") for judgement in found)
        return found

    return judged(weigh)


def without_weight(judgement: Judgement, wanted: str) -> Judgement:
    """A fault as a fact, where it does not concern the run."""
    known = {Verdict.FAIL: Verdict.INFO, Verdict.WARN: Verdict.INFO, Verdict.UNKNOWN: Verdict.SKIP}
    verdict = known.get(judgement.verdict)
    return replace(judgement, verdict=verdict, wanted=wanted) if verdict else judgement


def skip(observed: str, **more: str) -> Judgement:
    """It does not apply here, or may not be looked at."""
    return Judgement(verdict=Verdict.SKIP, observed=observed, **more)


def passed(observed: str, **more: str) -> Judgement:
    """It was looked at, and is as wanted."""
    return Judgement(verdict=Verdict.PASS, observed=observed, **more)


def info(observed: str, **more: str) -> Judgement:
    """A fact that is worth knowing and no fault."""
    return Judgement(verdict=Verdict.INFO, observed=observed, **more)


def warn(observed: str, **more: str) -> Judgement:
    """Training works, and worse than it could."""
    return Judgement(verdict=Verdict.WARN, observed=observed, **more)


def fail(observed: str, **more: str) -> Judgement:
    """Training will not work, or its results cannot be trusted."""
    return Judgement(verdict=Verdict.FAIL, observed=observed, **more)


def unread(signal: Signal[T], *, subject: str = "") -> Judgement:
    """An unreadable signal: SKIP where the hardware has no such thing or we may not look, else UNKNOWN."""
    reason = signal.unreadable or "it was not read"
    quiet = reason.startswith((NOT_SUPPORTED, NO_PERMISSION))
    return Judgement(
        verdict=Verdict.SKIP if quiet else Verdict.UNKNOWN, observed=reason, source=signal.source, subject=subject
    )


def from_condition(condition: Condition, command: str, verdict: Verdict = Verdict.FAIL) -> Judgement:
    """A state of the machine, in the words of ``detect``."""
    return Judgement(
        verdict=verdict,
        observed=f"{condition.symptom}; {condition.cause}",
        wanted=condition.remedy,
        source="envforge detect",
        command=command,
    )


def no_gpus(case: Case) -> Judgement:
    """Why there is no GPU whose signals could be judged."""
    silence = case.silence
    if silence is not None:
        return skip(f"the driver does not answer for its GPUs: see `{DRIVER_STATES[silence.code]}`")
    if case.machine.gpus:
        hidden = case.machine.visible == ()
        return skip("no GPU is visible: see `gpus-hidden`" if hidden else "NVML tells nothing of the GPU here")
    return skip(NO_GPU if case.is_bare else "the driver lists no GPU here")


def sources(*places: str | None) -> str:
    """The places where a judgement's facts were read, as far as they are known."""
    return "; ".join(place for place in places if place)


def each_gpu(
    case: Case, read: Callable[[GpuFacts], Signal[T]], say: Callable[[GpuFacts, T], Judgement | Iterable[Judgement]]
) -> Iterator[Judgement]:
    """What ``say`` finds in a signal of each GPU; an unreadable signal is never handed to it.

    Faults of a GPU that programs do not see (``CUDA_VISIBLE_DEVICES``) are facts: it may be somebody else's.
    """
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        signal = read(gpu)
        found = unread(signal, subject=subject(gpu)) if signal.value is None else say(gpu, signal.value)
        judgements = (found,) if isinstance(found, Judgement) else found
        if case.hides(gpu):
            judgements = (without_weight(item, "nothing: programs here do not see this GPU") for item in judgements)
        yield from judgements


def subject(gpu: GpuFacts) -> str:
    """How a finding names a GPU."""
    return f"GPU {gpu.index}"


def gib(count: int) -> str:
    """``7.8 GiB``; below a tenth of one in MiB, below a MiB in KiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size // 10:
            return f"{count / size:.1f} {unit}".replace(".0 MiB", " MiB")
    return f"{count / 2**10:.0f} KiB"
