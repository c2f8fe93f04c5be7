"""Check what limits the speed of an idle GPU; the training checks repeat this under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from envforge.verify.machine.facts import GpuFacts, Memory, Process, Reading
from envforge.verify.machine.judging import (
    Case,
    counted,
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
from envforge.verify.machine.reference_data import event_reasons, limit, name_of, share
from envforge.verify.values import Check, Judgement, Verdict

_PROHIBITED = 2  # NVML_COMPUTEMODE_PROHIBITED


def _throttled(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mask: int) -> Judgement:
        place = {"source": gpu.event_reasons.source, "subject": subject(gpu)}
        heat = f" at {gpu.temperature_c.value} °C" if gpu.temperature_c.value is not None else ""
        reasons = event_reasons(mask)
        bad = [f"{reason.name}: {reason.meaning}" for reason in reasons if reason.bad]
        if bad:
            words = f"the clocks are throttled{heat}: {'; '.join(bad)}"
            return warn(words, wanted="no throttling", command="nvidia-smi -q -d PERFORMANCE,TEMPERATURE", **place)
        named = ", ".join(reason.name for reason in reasons) or "none"
        return passed(f"no throttling{heat}; current reasons for the clocks: {named}", **place)

    yield from each_gpu(case, lambda gpu: gpu.event_reasons, say)


def _capped(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, power: Reading) -> Judgement:
        place = {"source": gpu.power_mw.source, "subject": subject(gpu)}
        now, default = power.now // 1000, power.reference // 1000
        if power.now < power.reference * share("power_share"):
            words = f"the power limit is {now} W, {round(100 * power.now / power.reference)} % of the default"
            return warn(
                words, wanted=f"{default} W, the default", command=f"nvidia-smi -q -d POWER -i {gpu.index}", **place
            )
        return passed(f"power limit {now} W, default {default} W", **place)

    yield from each_gpu(case, lambda gpu: gpu.power_mw, say)


def _clocks(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, clocks: Reading) -> Judgement:
        place = {"source": gpu.application_clocks_mhz.source, "subject": subject(gpu)}
        if clocks.now < clocks.reference * share("application_clock_share"):
            words = f"the application clock is set to {clocks.now} MHz"
            command = f"nvidia-smi -q -d CLOCK -i {gpu.index}"
            return warn(words, wanted=f"{clocks.reference} MHz, the default", command=command, **place)
        return passed(f"application clock {clocks.now} MHz, default {clocks.reference} MHz", **place)

    yield from each_gpu(case, lambda gpu: gpu.application_clocks_mhz, say)


def _width(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, width: Reading) -> Judgement:
        place = {"source": gpu.pcie_width.source, "subject": subject(gpu)}
        if width.now == 0:
            return info("the bus reports no width, as in some virtual machines", **place)
        if width.now < width.reference:
            words = f"{width.now} of {width.reference} PCIe lanes are in use"
            wanted = f"{width.reference} lanes; check the slot, the riser, and the firmware settings"
            command = "nvidia-smi --query-gpu=pcie.link.width.current,pcie.link.width.max --format=csv"
            return warn(words, wanted=wanted, command=command, **place)
        return passed(f"all {width.now} PCIe lanes are in use; {_generation(gpu)}", **place)

    yield from each_gpu(case, lambda gpu: gpu.pcie_width, say)


def _generation(gpu: GpuFacts) -> str:
    found = gpu.pcie_generation.value
    if found is None:
        return "unknown generation"
    rest = "" if found.now == found.reference else " while idle; it is checked under load"
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
            reason = "there is no bridge" if several else "there is no other GPU to connect to"
            return info(f"{words}: {reason}", **place)
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
        words = "persistence mode is off, so the first CUDA call of a program waits for the GPU"
        return info(
            words,
            wanted="on (nvidia-persistenced, started by the administrator)",
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
            wanted = "a free GPU; select one with CUDA_VISIBLE_DEVICES, or wait for the other program"
            command = "nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv"
            return warn(f"{used}, by {_named(processes)}", wanted=wanted, command=command, **place)
        if processes:
            return info(f"{used}; {_named(processes)}", command="nvidia-smi", **place)
        return passed(f"{gib(memory.free)} of {gib(memory.total)} is free", **place)

    yield from each_gpu(case, lambda gpu: gpu.memory, say)


def _named(processes: tuple[Process, ...]) -> str:
    if not processes:
        return "a process that is not visible to this user or container"
    return f"{counted(len(processes), 'process')}: " + ", ".join(f"PID {process.pid}" for process in processes[:5])


def _compute_mode(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mode: int) -> Judgement:
        place = {"source": gpu.compute_mode.source, "subject": subject(gpu)}
        words = f"compute mode is `{name_of('compute_modes', mode)}`"
        command = "nvidia-smi --query-gpu=index,compute_mode --format=csv"
        if mode == 0:
            return passed(words, **place)
        if mode == _PROHIBITED:
            return fail(f"{words}: no CUDA program can use the GPU", wanted="default", command=command, **place)
        return warn(f"{words}: only one process can use the GPU", wanted="default", command=command, **place)

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
        "Clock throttling",
        "Heat or missing power slows training to a fraction of its speed, without an error.",
        _throttled,
        23,
    ),
    _check("power-capped", "Power limit", "A lower limit reduces speed under load.", _capped, 24),
    _check("clocks-lowered", "Application clocks", "Lower application clocks reduce speed.", _clocks, None),
    _check(
        "pcie-narrow",
        "PCIe lanes",
        "With fewer lanes, data reaches the GPU more slowly, and the GPU waits for it.",
        _width,
        25,
    ),
    _check(
        "nvlink-down",
        "NVLink connections",
        "Without NVLink, GPUs exchange gradients over the slower PCIe bus.",
        _links,
        27,
    ),
    Check(
        id="persistence-off",
        question="machine",
        group="performance",
        title="Persistence mode",
        why="Without it, the driver unloads an idle GPU, and the next program waits one to three seconds.",
        severity=Verdict.INFO,
        judge=judged_of_gpu(_persistence),
        row=28,
    ),
    _check(
        "gpu-busy",
        "Free GPU memory",
        "If other programs use the memory, training fails with `out of memory`.",
        _busy,
        29,
    ),
    Check(
        id="compute-mode",
        question="machine",
        group="performance",
        title="Compute mode",
        why="In other modes than `default`: `all CUDA-capable devices are busy or unavailable`.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_compute_mode),
        row=30,
    ),
)
