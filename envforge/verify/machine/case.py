"""Define what the machine's judges receive: the complete machine, or one signal of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.redact import quoted
from envforge.machine.values import OTHER_GPU, UNREADABLE_SMI, Condition, Machine
from envforge.verify.judging import Judged, View, as_judgements, skipped, unread
from envforge.verify.machine.facts import GpuFacts, LockNeeds, MachineFacts, SystemFacts
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

T = TypeVar("T")

NO_GPU = "no NVIDIA GPU"

# conditions in which the driver doesn't report its GPUs, and the check that reports each of them
DRIVER_STATES = {
    "container-lost-gpus": "container-lost-gpu",
    "container-without-gpus": "container-without-gpus",
    "driver-library-mismatch": "driver-library-mismatch",
    "driver-sees-no-gpu": "gpu-count",
    "gpu-held-by-other-driver": "driver-not-loaded",
    "no-kernel-module": "driver-not-loaded",
    "nouveau": "nouveau",
    UNREADABLE_SMI: "gpu-missing",
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
    OTHER_GPU: "gpu-missing",
    "visible-devices": "gpus-hidden",
}


class Case(Struct, frozen=True, kw_only=True):
    """A record as the machine's checks see it; ``described_as`` is the value of ``--machine``, if it was used."""

    facts: MachineFacts
    described_as: str = ""

    @property
    def machine(self) -> Machine:
        """The machine as ``envforge detect`` reports it."""
        return self.facts.machine

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

    @property
    def on_linux(self) -> bool:
        """Whether this is Linux, WSL included."""
        return self.machine.platform.startswith("linux-")


def _case(record: Record) -> Case:
    facts = cast("MachineFacts", record.machine)  # the engine skips the checks of a question without facts
    return Case(facts=facts, described_as=record.asked.machine)


def _of_driver(record: Record, judge: Callable[[Case], Judged]) -> Iterator[Judgement]:
    case = _case(record)
    for judgement in as_judgements(judge(case)):
        yield _weighed(case, judgement)


MACHINE: View[Case] = View(question="machine", judged=lambda record, judge: as_judgements(judge(_case(record))))
DRIVER = View(question="machine", judged=_of_driver)
"""Like ``MACHINE``, for checks of GPUs and their driver: if the lockfile needs none, a problem is only a fact."""


class SystemCase(Struct, Generic[T], frozen=True, kw_only=True):
    """The machine, and the value of the signal of its operating system that the check is about."""

    case: Case
    value: T


def of_system(read: Callable[[SystemFacts], Signal[T]]) -> View[SystemCase[T]]:
    """Return the view of one signal of the operating system; an unreadable signal is never passed to the judge."""

    def judged(record: Record, judge: Callable[[SystemCase[T]], Judged]) -> Iterator[Judgement]:
        case = _case(record)
        signal = read(case.facts.system)
        found = unread(signal) if signal.value is None else judge(SystemCase(case=case, value=signal.value))
        for judgement in as_judgements(found):
            yield replace(judgement, source=judgement.source or signal.source)

    return View(question="machine", judged=judged)


class GpuCase(Struct, Generic[T], frozen=True, kw_only=True):
    """One GPU, and the value of the signal that the check is about."""

    case: Case
    facts: GpuFacts
    value: T


def each_gpu(read: Callable[[GpuFacts], Signal[T]]) -> View[GpuCase[T]]:
    """Return the view of one signal of each GPU."""

    def judged(record: Record, judge: Callable[[GpuCase[T]], Judged]) -> Iterator[Judgement]:
        case = _case(record)
        for judgement in judge_gpus(case, read, judge) if case.facts.gpus else (no_gpus(case),):
            yield _weighed(case, judgement)

    return View(question="machine", judged=judged)


def judge_gpus(
    case: Case, read: Callable[[GpuFacts], Signal[T]], judge: Callable[[GpuCase[T]], Judged]
) -> Iterator[Judgement]:
    """Judge a signal of each GPU; an unreadable signal is never passed to ``judge``.

    Judgements get the GPU as their subject and the signal's source. Problems of a GPU that programs can't see
    (``CUDA_VISIBLE_DEVICES``) are facts, because another user may own it.
    """
    for gpu in case.facts.gpus:
        signal = read(gpu)
        found = unread(signal) if signal.value is None else judge(GpuCase(case=case, facts=gpu, value=signal.value))
        for judgement in as_judgements(found):
            named = replace(judgement, subject=subject(gpu), source=judgement.source or signal.source)
            yield without_weight(named, "nothing: programs do not see this GPU") if case.hides(gpu) else named


def _weighed(case: Case, judgement: Judgement) -> Judgement:
    if case.wants_gpu is False:
        return without_weight(judgement, "nothing: the lockfile needs no GPU")
    return judgement


def without_weight(judgement: Judgement, wanted: str) -> Judgement:
    """Turn a problem into a fact, if it doesn't affect the run."""
    # UNKNOWN becomes SKIP: what can't be read doesn't matter, either
    known = {Verdict.FAIL: Verdict.INFO, Verdict.WARN: Verdict.INFO, Verdict.UNKNOWN: Verdict.SKIP}
    verdict = known.get(judgement.verdict)
    return replace(judgement, verdict=verdict, wanted=wanted) if verdict else judgement


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
        return skipped(f"the driver does not report its GPUs: see `{DRIVER_STATES[silence.code]}`")
    if case.machine.gpus:
        # None means that nothing is hidden
        hidden = case.machine.visible == ()
        return skipped("no GPU is visible: see `gpus-hidden`" if hidden else "NVML does not report the GPU")
    return skipped(NO_GPU if case.is_bare else "the driver lists no GPU")


def sources(*places: str | None) -> str:
    """Join the known places where a judgement's facts were read."""
    return "; ".join(place for place in places if place)


def subject(gpu: GpuFacts) -> str:
    """Return the name of a GPU in findings."""
    return f"GPU {gpu.index}"


def gib(count: int) -> str:
    """Return a size such as ``7.8 GiB``, or in MiB or KiB if it is small."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size // 10:
            return f"{count / size:.1f} {unit}".replace(".0 MiB", " MiB")
    return f"{count / 2**10:.0f} KiB"
