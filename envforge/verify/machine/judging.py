"""Help the machine checks: whether a GPU is required, unreadable signals, and one judgement per GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from envforge.base.redact import quoted
from envforge.machine.record import machine_from_json
from envforge.machine.values import Condition, Machine
from envforge.verify.machine.facts import NO_PERMISSION, NOT_SUPPORTED, GpuFacts, LockNeeds, MachineFacts
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

T = TypeVar("T")

NO_GPU = "no NVIDIA GPU"
_OLD_NO_PERMISSION = "this user may not read it"  # records of envforge 0.1.0 contain this string

# conditions in which the driver doesn't report its GPUs, and the check that reports each of them
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
# every condition that a check reports
CONDITION_CHECKS = DRIVER_STATES | {
    "cuda-compat": "cuda-compat-misused",
    "different-gpus": "different-gpus",
    "gpus-hidden": "gpus-hidden",
    "libcuda-mismatch": "cuda-compat-misused",
    "no-glibc": "glibc-too-old",
    "visible-devices": "gpus-hidden",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A record as the machine's checks see it; ``described_as`` is the value of ``--machine``, if it was used."""

    facts: MachineFacts
    machine: Machine
    described_as: str = ""

    @property
    def explain(self) -> str:
        """The command that lists the builds that the machine supports."""
        return f"envforge explain --machine {quoted(self.described_as)}" if self.described_as else "envforge explain"

    @property
    def needs(self) -> LockNeeds | None:
        """The requirements of the lockfile; None without a valid lockfile for this platform."""
        needs = self.facts.lock.value
        return needs if needs is not None and needs.platform in needs.platforms else None

    @property
    def wants_gpu(self) -> bool | None:
        """Whether the lockfile contains CUDA; None without a lockfile."""
        needs = self.needs
        return None if needs is None else needs.cuda is not None

    def condition(self, *codes: str) -> Condition | None:
        """Return the first of these conditions that the machine is in."""
        return next((condition for condition in self.machine.conditions if condition.code in codes), None)

    def hides(self, gpu: GpuFacts) -> bool:
        """Return whether programs can't use this GPU, but can use another one.

        If the GPUs differ, CUDA numbers the fastest first, so the numbers don't identify a GPU.
        """
        visible = self.machine.visible
        by_bus = self.facts.variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        sure = by_bus or len({known.name for known in self.machine.gpus}) < 2
        return bool(visible) and sure and gpu.index not in (visible or ())

    @property
    def is_bare(self) -> bool:
        """Whether nothing of NVIDIA was found: no device on the bus, no driver, no GPU."""
        return not self.facts.driver.pci and self.machine.driver is None and not self.machine.gpus

    @property
    def silence(self) -> Condition | None:
        """The condition that keeps the driver from reporting its GPUs, if there is one."""
        return self.condition(*DRIVER_STATES)


Say = Callable[[Case], Iterable[Judgement]]


def judged(say: Say) -> Callable[[Record], Iterable[Judgement]]:
    """Return a function that judges a record, from one that judges a case."""

    def judge(record: Record) -> Iterable[Judgement]:
        if record.machine is None:
            return (skip("the machine was not observed"),)
        machine = machine_from_json(record.machine.machine, "the record")
        return say(Case(facts=record.machine, machine=machine, described_as=record.asked.machine))

    return judge


def judged_of_gpu(say: Say) -> Callable[[Record], Iterable[Judgement]]:
    """Like ``judged``, for checks of the GPU: if the lockfile needs none, a problem is only reported as a fact."""

    def weigh(case: Case) -> Iterable[Judgement]:
        found = say(case)
        if case.wants_gpu is False:
            return tuple(without_weight(judgement, "nothing: the lockfile needs no GPU") for judgement in found)
        return found

    return judged(weigh)


def without_weight(judgement: Judgement, wanted: str) -> Judgement:
    """Turn a problem into a fact, if it doesn't affect the run."""
    known = {Verdict.FAIL: Verdict.INFO, Verdict.WARN: Verdict.INFO, Verdict.UNKNOWN: Verdict.SKIP}
    verdict = known.get(judgement.verdict)
    return replace(judgement, verdict=verdict, wanted=wanted) if verdict else judgement


def skip(observed: str, **more: str) -> Judgement:
    """Return a judgement: the check doesn't apply, or isn't permitted."""
    return Judgement(verdict=Verdict.SKIP, observed=observed, **more)


def passed(observed: str, **more: str) -> Judgement:
    """Return a judgement: the check found what was expected."""
    return Judgement(verdict=Verdict.PASS, observed=observed, **more)


def info(observed: str, **more: str) -> Judgement:
    """Return a judgement: a fact worth knowing."""
    return Judgement(verdict=Verdict.INFO, observed=observed, **more)


def warn(observed: str, **more: str) -> Judgement:
    """Return a judgement: training works, but worse than it could."""
    return Judgement(verdict=Verdict.WARN, observed=observed, **more)


def fail(observed: str, **more: str) -> Judgement:
    """Return a judgement: training fails, or its results can't be trusted."""
    return Judgement(verdict=Verdict.FAIL, observed=observed, **more)


def unread(signal: Signal[T], *, subject: str = "") -> Judgement:
    """Return SKIP if the hardware lacks the signal or reading it isn't permitted, else UNKNOWN."""
    reason = signal.unreadable or "not read"
    quiet = reason.startswith((NOT_SUPPORTED, NO_PERMISSION, _OLD_NO_PERMISSION))
    return Judgement(
        verdict=Verdict.SKIP if quiet else Verdict.UNKNOWN, observed=reason, source=signal.source, subject=subject
    )


def from_condition(condition: Condition, command: str, verdict: Verdict = Verdict.FAIL) -> Judgement:
    """Return the judgement of a condition that ``envforge detect`` reports."""
    return Judgement(
        verdict=verdict,
        observed=f"{condition.symptom}; {condition.cause}",
        wanted=condition.remedy,
        source="envforge detect",
        command=command,
    )


def no_gpus(case: Case) -> Judgement:
    """Return the reason why there is no GPU to check."""
    silence = case.silence
    if silence is not None:
        return skip(f"the driver does not report its GPUs: see `{DRIVER_STATES[silence.code]}`")
    if case.machine.gpus:
        hidden = case.machine.visible == ()
        return skip("no GPU is visible: see `gpus-hidden`" if hidden else "NVML does not report the GPU")
    return skip(NO_GPU if case.is_bare else "the driver lists no GPU")


def sources(*places: str | None) -> str:
    """Join the known places where a judgement's facts were read."""
    return "; ".join(place for place in places if place)


def each_gpu(
    case: Case, read: Callable[[GpuFacts], Signal[T]], say: Callable[[GpuFacts, T], Judgement | Iterable[Judgement]]
) -> Iterator[Judgement]:
    """Judge a signal of each GPU; an unreadable signal is never passed to ``say``.

    Problems of a GPU that programs can't see (``CUDA_VISIBLE_DEVICES``) are facts, because another user may own it.
    """
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        signal = read(gpu)
        found = unread(signal, subject=subject(gpu)) if signal.value is None else say(gpu, signal.value)
        judgements = (found,) if isinstance(found, Judgement) else found
        if case.hides(gpu):
            judgements = (without_weight(item, "nothing: programs do not see this GPU") for item in judgements)
        yield from judgements


def subject(gpu: GpuFacts) -> str:
    """Return the name of a GPU in findings."""
    return f"GPU {gpu.index}"


def counted(number: int, noun: str) -> str:
    """Return ``1 GPU`` or ``2 GPUs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def gib(count: int) -> str:
    """Return a size such as ``7.8 GiB``, or in MiB or KiB if it is small."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size // 10:
            return f"{count / size:.1f} {unit}".replace(".0 MiB", " MiB")
    return f"{count / 2**10:.0f} KiB"
