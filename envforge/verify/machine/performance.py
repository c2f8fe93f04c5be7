"""Checks: can the GPU run at its speed? What is seen at rest; under load the training's own checks look again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from envforge.verify.machine.gpu_facts import GpuFacts, Memory, Process, Reading
from envforge.verify.machine.judging import (
    Case,
    each_gpu,
    fail,
    gib,
    info,
    judged_of_gpu,
    passed,
    skip,
    subject,
    warn,
)
from envforge.verify.machine.tables import event_reasons, limit, name_of, share
from envforge.verify.values import Check, Judgement, Verdict

_PROHIBITED = 2


def _throttled(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mask: int) -> Judgement:
        place = {"source": gpu.event_reasons.source, "subject": subject(gpu)}
        heat = f" at {gpu.temperature_c.value} °C" if gpu.temperature_c.value is not None else ""
        reasons = event_reasons(mask)
        bad = [f"{reason.name}: {reason.meaning}" for reason in reasons if reason.bad]
        if bad:
            words = f"it is slowed down{heat}: {'; '.join(bad)}"
            return warn(words, wanted="no slowdown", command="nvidia-smi -q -d PERFORMANCE,TEMPERATURE", **place)
        named = ", ".join(reason.name for reason in reasons) or "none"
        return passed(f"no slowdown{heat}; reasons for its clocks now: {named}", **place)

    yield from each_gpu(case, lambda gpu: gpu.event_reasons, say)


def _capped(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, power: Reading) -> Judgement:
        place = {"source": gpu.power_mw.source, "subject": subject(gpu)}
        now, default = power.now // 1000, power.reference // 1000
        if power.now < power.reference * share("power_share"):
            words = f"its power is limited to {now} W, {round(100 * power.now / power.reference)} % of its default"
            return warn(words, wanted=f"{default} W", command=f"nvidia-smi -q -d POWER -i {gpu.index}", **place)
        return passed(f"power limit {now} W, default {default} W", **place)

    yield from each_gpu(case, lambda gpu: gpu.power_mw, say)


def _clocks(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, clocks: Reading) -> Judgement:
        place = {"source": gpu.application_clocks_mhz.source, "subject": subject(gpu)}
        if clocks.now < clocks.reference * share("application_clock_share"):
            words = f"somebody set its clock to {clocks.now} MHz"
            command = f"nvidia-smi -q -d CLOCK -i {gpu.index}"
            return warn(words, wanted=f"{clocks.reference} MHz, its default", command=command, **place)
        return passed(f"its clock is set to {clocks.now} MHz, default {clocks.reference} MHz", **place)

    yield from each_gpu(case, lambda gpu: gpu.application_clocks_mhz, say)


def _width(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, width: Reading) -> Judgement:
        place = {"source": gpu.pcie_width.source, "subject": subject(gpu)}
        if width.now == 0:
            return info("the bus tells no width, as in some virtual machines", **place)
        if width.now < width.reference:
            words = f"{width.now} PCI Express lanes of {width.reference}"
            wanted = f"{width.reference} lanes: look at the slot, the riser and the firmware settings"
            command = "nvidia-smi --query-gpu=pcie.link.width.current,pcie.link.width.max --format=csv"
            return warn(words, wanted=wanted, command=command, **place)
        return passed(f"{width.now} PCI Express lanes, all that it has; {_generation(gpu)}", **place)

    yield from each_gpu(case, lambda gpu: gpu.pcie_width, say)


def _generation(gpu: GpuFacts) -> str:
    found = gpu.pcie_generation.value
    if found is None:
        return "their generation is not known"
    rest = "" if found.now == found.reference else ", as at rest: it is judged under load"
    return f"generation {found.now} of {found.reference}{rest}"


def _links(case: Case) -> Iterator[Judgement]:
    several = len(case.facts.gpus) > 1

    def say(gpu: GpuFacts, links: tuple[bool, ...]) -> Judgement:
        place = {"source": gpu.links.source, "subject": subject(gpu)}
        active = sum(links)
        words = f"{active} of {len(links)} NVLink connections are active"
        if not links:
            return skip("the GPU has no NVLink", **place)
        if active == len(links):
            return passed(words, **place)
        if not several or (active == 0 and not _is_switched(case, gpu)):
            alone = "there is no bridge" if several else "there is no other GPU for them"
            return info(f"{words}: {alone}", **place)
        return warn(words, wanted="all of them", command=f"nvidia-smi nvlink --status -i {gpu.index}", **place)

    yield from each_gpu(case, lambda gpu: gpu.links, say)


def _is_switched(case: Case, gpu: GpuFacts) -> bool:
    in_fabric = gpu.fabric.value is not None and gpu.fabric.value.state != 0
    return in_fabric or bool(case.facts.driver.nvswitches) or "SXM" in gpu.name


def _persistence(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, on: bool) -> Judgement:
        place = {"source": gpu.persistence.source, "subject": subject(gpu)}
        if on:
            return passed("persistence mode is on", **place)
        words = "persistence mode is off: the first CUDA call of a program waits for the GPU to wake"
        return info(
            words,
            wanted="on, by its administrator (nvidia-persistenced)",
            command="systemctl status nvidia-persistenced",
            **place,
        )

    yield from each_gpu(case, lambda gpu: gpu.persistence, say)


def _busy(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, memory: Memory) -> Judgement:
        place = {"source": gpu.memory.source, "subject": subject(gpu)}
        processes = gpu.processes.value or ()
        used = f"{gib(memory.used)} of {gib(memory.total)} is in use"
        if memory.used > max(memory.total * share("gpu_used_share"), limit("gpu_used_bytes")):
            wanted = "a free GPU: choose one with CUDA_VISIBLE_DEVICES, or wait for the other program"
            command = "nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv"
            return warn(f"{used}, by {_named(processes)}", wanted=wanted, command=command, **place)
        if processes:
            return info(f"{used}; {_named(processes)}", command="nvidia-smi", **place)
        return passed(f"{gib(memory.free)} of {gib(memory.total)} is free", **place)

    yield from each_gpu(case, lambda gpu: gpu.memory, say)


def _named(processes: tuple[Process, ...]) -> str:
    if not processes:
        return "a process that this user or container does not see"
    return f"{len(processes)} process(es): " + ", ".join(f"pid {process.pid}" for process in processes[:5])


def _compute_mode(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mode: int) -> Judgement:
        place = {"source": gpu.compute_mode.source, "subject": subject(gpu)}
        words = f"compute mode is `{name_of('compute_modes', mode)}`"
        command = "nvidia-smi --query-gpu=index,compute_mode --format=csv"
        if mode == 0:
            return passed(words, **place)
        if mode == _PROHIBITED:
            return fail(f"{words}: no CUDA program may use it", wanted="default", command=command, **place)
        return warn(f"{words}: one process alone may use it", wanted="default", command=command, **place)

    yield from each_gpu(case, lambda gpu: gpu.compute_mode, say)


def _check(identity: str, title: str, why: str, say: Callable[[Case], Iterator[Judgement]], row: int | None) -> Check:
    return Check(
        id=identity,
        question="machine",
        group="performance",
        title=title,
        why=why,
        severity=Verdict.WARN,
        judge=judged_of_gpu(say),
        row=row,
    )


CHECKS = (
    _check(
        "throttled",
        "the GPU is not slowed down",
        "Heat or power slow training to a fraction, without any error",
        _throttled,
        23,
    ),
    _check("power-capped", "the power limit is the default", "A lower limit costs speed under load", _capped, 24),
    _check("clocks-lowered", "the clocks are the default", "Lower application clocks cost speed", _clocks, None),
    _check(
        "pcie-narrow",
        "every PCI Express lane is in use",
        "Data reaches the GPU slower, and the GPU waits for it",
        _width,
        25,
    ),
    _check(
        "nvlink-down",
        "every NVLink connection is active",
        "Several GPUs exchange gradients over the slower PCI bus",
        _links,
        27,
    ),
    Check(
        id="persistence-off",
        question="machine",
        group="performance",
        title="persistence mode is on",
        why="Without it the driver unloads an idle GPU, and the next program waits one to three seconds",
        severity=Verdict.INFO,
        judge=judged_of_gpu(_persistence),
        row=28,
    ),
    _check(
        "gpu-busy",
        "the GPU's memory is free",
        "What others hold is missing: training ends with `out of memory` at once",
        _busy,
        29,
    ),
    Check(
        id="compute-mode",
        question="machine",
        group="performance",
        title="several processes may use the GPU",
        why="Otherwise: `all CUDA-capable devices are busy or unavailable`",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_compute_mode),
        row=30,
    ),
)
