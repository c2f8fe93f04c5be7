"""What the machine's judges share: who wants a GPU, how an unreadable signal is said, one judgement for each GPU.

Enters: a ``Record``. Leaves: values and ``Judgement``. Nothing here reads the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from envforge.machine import Condition, Machine
from envforge.machine.record import machine_from_json
from envforge.matrix import Matrix, load_matrix
from envforge.verify.machine.facts import LockNeeds, MachineFacts
from envforge.verify.machine.gpu_facts import GpuFacts
from envforge.verify.machine.signals import NO_PERMISSION, NOT_SUPPORTED
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

T = TypeVar("T")

# What keeps the driver from answering for its GPUs; each has a check of its own.
DRIVER_STATES = {
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


def gpu_fault(case: Case, judgement: Judgement) -> Judgement:
    """A fault of the GPU weighs nothing where the lock wants none: it is said as a fact."""
    if case.wants_gpu is not False:
        return judgement
    return Judgement(
        verdict=Verdict.INFO,
        observed=judgement.observed,
        wanted="nothing: the lock needs no GPU",
        source=judgement.source,
        subject=judgement.subject,
        command=judgement.command,
    )


def from_condition(case: Case, condition: Condition, command: str, verdict: Verdict = Verdict.FAIL) -> Judgement:
    """A state of the machine, in the words of ``detect``."""
    return gpu_fault(
        case,
        Judgement(
            verdict=verdict,
            observed=f"{condition.symptom}; {condition.cause}",
            wanted=condition.remedy,
            source="envforge detect",
            command=command,
        ),
    )


def no_gpus(case: Case) -> Judgement:
    """Why there is no GPU whose signals could be judged."""
    silence = case.silence
    if silence is not None:
        return skip(f"the driver does not answer for its GPUs: see `{DRIVER_STATES[silence.code]}`")
    return skip("there is no NVIDIA GPU here")


def sources(*places: str | None) -> str:
    """The places where a judgement's facts were read, as far as they are known."""
    return "; ".join(place for place in places if place)


def each_gpu(
    case: Case, read: Callable[[GpuFacts], Signal[T]], say: Callable[[GpuFacts, T], Judgement | Iterable[Judgement]]
) -> Iterator[Judgement]:
    """What ``say`` finds in a signal of each GPU; an unreadable signal is never handed to it."""
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        signal = read(gpu)
        if signal.value is None:
            yield unread(signal, subject=subject(gpu))
            continue
        found = say(gpu, signal.value)
        yield from (found,) if isinstance(found, Judgement) else found


def subject(gpu: GpuFacts) -> str:
    """How a finding names a GPU."""
    return f"GPU {gpu.index}"


@cache
def matrix() -> Matrix:
    """The table of builds and drivers, read once."""
    return load_matrix()


def gib(count: int) -> str:
    """``7.8 GiB``; below a tenth of one in MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 // 10 else f"{count / 2**20:.0f} MiB"
