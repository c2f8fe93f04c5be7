"""Check the health of each GPU, and what limits its speed while it is idle. Nothing is ever reset.

The training checks repeat the speed checks under load.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from envforge.verify.judging import check, counted, failed, info, passed, skipped, unread, warned
from envforge.verify.machine.case import DRIVER, NO_GPU, Case, GpuCase, each_gpu, gib, no_gpus, subject
from envforge.verify.machine.facts import Memory, Mode, Process, Reading, RemappedRows, RetiredPages, XidEvent
from envforge.verify.machine.reference_data import Xid, event_reasons, limit, name_of, share, xid
from envforge.verify.values import Judgement, Verdict

_ECC = "nvidia-smi -q -d ECC"
_ROWS = "nvidia-smi -q -d ROW_REMAPPER"
_PAGES = "nvidia-smi -q -d PAGE_RETIREMENT"
_LOG = "sudo dmesg | grep -i xid | tail -20"
_RESET = "a reset of the GPU by the administrator"
_PROHIBITED = 2  # NVML_COMPUTEMODE_PROHIBITED

_health = partial(check, group="health")
_required = partial(_health, required=True)
_warning = partial(_health, severity=Verdict.WARN)
_performance = partial(check, group="performance", severity=Verdict.WARN)


@_required("gpu-lost", "Response of each GPU", of=DRIVER, row=18)
def _lost(case: Case) -> Iterator[Judgement]:
    """`GPU has fallen off the bus`: programs on it fail or hang, and it doesn't recover without a reset."""
    if not case.facts.gpus:
        yield no_gpus(case)
    for gpu in case.facts.gpus:
        place = {"source": gpu.handle.source, "subject": subject(gpu)}
        if gpu.handle.unreadable is None:
            yield passed("the GPU responds", **place)
        elif gpu.handle.code == "gpu-lost":
            wanted = "a GPU that responds; a reset or a reboot by the administrator can restore it"
            command = "sudo dmesg | grep NVRM | tail -20"
            yield failed(f"the GPU is lost ({gpu.handle.unreadable})", wanted, command=command, **place)
        else:
            yield unread(gpu.handle, subject=subject(gpu))


@_health("recovery-needed", "Recovery action reported by the driver", of=each_gpu(lambda gpu: gpu.recovery), row=19)
def _recovery(gpu: GpuCase[int]) -> Judgement:
    """Until the reset or reboot that the driver reports, results of this GPU can't be trusted."""
    if gpu.value == 0:
        return passed("the driver reports no recovery action")
    words = f"the driver requires a recovery action: {name_of('recovery_actions', gpu.value)}"
    return failed(words, "none", command="nvidia-smi -q | grep -i recovery")


@_required("ecc-uncorrectable", "Uncorrectable memory errors", of=each_gpu(lambda gpu: gpu.ecc_uncorrected), row=20)
def _uncorrected(gpu: GpuCase[int]) -> Judgement:
    """Programs fail with `uncorrectable ECC error encountered`, or continue with wrong numbers."""
    # old errors stay in this counter even after the row was replaced
    ever = gpu.facts.ecc_uncorrected_ever.value
    if gpu.value:
        words = f"{counted(gpu.value, 'uncorrectable memory error')} since the driver was loaded"
        wanted = "none; if errors come back after a reset by the administrator, the GPU must be replaced"
        return failed(words, wanted, command=_ECC)
    if ever:
        return info(f"none since the driver was loaded, {ever} in the lifetime of the GPU", command=_ECC)
    return passed("no uncorrectable memory error")


@_warning("ecc-mode", "ECC mode", of=each_gpu(lambda gpu: gpu.ecc), row=20)
def _ecc_mode(gpu: GpuCase[Mode]) -> Judgement:
    """A pending mode changes memory size and error handling at the next reset."""
    if gpu.value.current != gpu.value.pending:
        return warned(f"ECC is {gpu.value.words}", "the same mode now and after the reset", command=_ECC)
    if not gpu.value.current:
        return info("ECC is off, so memory errors are not detected", command=_ECC)
    return passed("ECC is on")


@_required("row-remap", "Remapped rows of GPU memory", of=each_gpu(lambda gpu: gpu.rows), row=21)
def _rows(gpu: GpuCase[RemappedRows]) -> Judgement:
    """Faulty rows are used until the next reset. If no spare row is left, the GPU must be replaced."""
    rows = gpu.value
    total = f"{rows.correctable} correctable, {rows.uncorrectable} uncorrectable"
    if rows.failed:
        wanted = "a spare row; without one, the GPU must be replaced"
        return failed(f"a faulty row of memory could not be replaced ({total})", wanted, command=_ROWS)
    if rows.pending:
        words = f"a row of memory will be replaced at the next reset of the GPU ({total})"
        return warned(words, _RESET, command=_ROWS)
    if rows.correctable or rows.uncorrectable:
        return info(f"rows of memory were replaced ({total})", command=_ROWS)
    return passed("no row of memory was replaced")


@_warning("retired-pages", "Retired pages of GPU memory", of=each_gpu(lambda gpu: gpu.retired_pages), row=21)
def _pages(gpu: GpuCase[RetiredPages]) -> Judgement:
    """On GPUs before Ampere, faulty pages are used until the next reset."""
    double_bit = gpu.value.double_bit
    if gpu.value.pending:
        words = f"a page of memory will be retired at the next reset ({double_bit} retired so far)"
        return warned(words, _RESET, command=_PAGES)
    if double_bit:
        words = f"{counted(double_bit, 'page')} of memory retired because of double-bit errors"
        return info(words, command=_PAGES)
    return passed("no page of memory was retired")


@_health("xid-hardware", "Hardware Xid errors in the kernel log", of=DRIVER, row=22)
def _hardware(case: Case) -> Iterator[Judgement]:
    """The driver logs Xid errors when a GPU fails, often days before a run crashes."""
    return _xids(case, hardware=True)


@_warning("xid-application", "Application Xid errors in the kernel log", of=DRIVER, row=22)
def _application(case: Case) -> Iterator[Judgement]:
    """A program caused a GPU error: often a bug in a kernel, sometimes the first sign of failing hardware."""
    return _xids(case, hardware=False)


def _xids(case: Case, *, hardware: bool) -> Iterator[Judgement]:
    """Judge the codes of one kind; an unknown code is treated as hardware, so that it isn't overlooked."""
    signal = case.facts.system.xids
    if case.machine.driver is None and not case.facts.driver.pci and not signal.value:
        yield skipped(NO_GPU)
        return
    if signal.value is None:
        yield unread(signal)
        return
    rows = [(event, xid(event.code)) for event in signal.value]
    chosen = [(event, row) for event, row in rows if (row is None or row.kind == "hardware") == hardware]
    if not chosen:
        yield passed(f"no such Xid error in the kernel log ({signal.source})", source=signal.source)
    for event, row in chosen:
        yield _xid(case, event, row, signal.source)


def _xid(case: Case, event: XidEvent, row: Xid | None, source: str) -> Judgement:
    place_of_event = _place(event.bus_id)
    gpu = next((gpu for gpu in case.facts.gpus if gpu.bus_id and _place(gpu.bus_id) == place_of_event), None)
    place = {"source": source, "command": _LOG, "subject": subject(gpu) if gpu else f"PCI {event.bus_id}"}
    times = "once" if event.count == 1 else f"{event.count} times"
    words = f"Xid {event.code} {times} since the machine started"
    if row is None:
        return warned(f"{words}: not in the Xid table", "see https://docs.nvidia.com/deploy/xid-errors/", **place)
    if gpu is None and case.facts.gpus:
        words = f"{words}: {row.meaning} (on a GPU of the host that this machine does not use)"
        return info(words, row.advice, **place)
    # a code without an action is a fact; an error of a program can happen again
    judgement = info if row.action == "none" else failed if row.kind == "hardware" else warned
    return judgement(f"{words}: {row.meaning}", row.advice, **place)


def _place(bus_id: str) -> str:
    """Return domain (four digits), bus, and device: the kernel writes no function, NVML eight digits of domain."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"


@_performance("throttled", "Clock throttling", of=each_gpu(lambda gpu: gpu.event_reasons), row=23)
def _throttled(gpu: GpuCase[int]) -> Judgement:
    """Heat or missing power slows training to a fraction of its speed, without an error."""
    temperature_c = gpu.facts.temperature_c.value
    heat = f" at {temperature_c} °C" if temperature_c is not None else ""
    reasons = event_reasons(gpu.value)
    bad = [f"{reason.name}: {reason.meaning}" for reason in reasons if reason.bad]
    if bad:
        words = f"the clocks are throttled{heat}: {'; '.join(bad)}"
        return warned(words, "no throttling", command="nvidia-smi -q -d PERFORMANCE,TEMPERATURE")
    named = ", ".join(reason.name for reason in reasons) or "none"
    return passed(f"no throttling{heat}; current reasons for the clocks: {named}")


@_performance("power-capped", "Power limit", of=each_gpu(lambda gpu: gpu.power_mw), row=24)
def _capped(gpu: GpuCase[Reading]) -> Judgement:
    """A lower limit reduces speed under load."""
    power = gpu.value
    now, default = power.now // 1000, power.reference // 1000
    if power.now < power.reference * share("power_share"):
        words = f"the power limit is {now} W, {round(100 * power.now / power.reference)} % of the default"
        return warned(words, f"{default} W, the default", command=f"nvidia-smi -q -d POWER -i {gpu.facts.index}")
    return passed(f"power limit {now} W, default {default} W")


@_performance("clocks-lowered", "Application clocks", of=each_gpu(lambda gpu: gpu.application_clocks_mhz))
def _clocks(gpu: GpuCase[Reading]) -> Judgement:
    """Lower application clocks reduce speed."""
    now, default = gpu.value.now, gpu.value.reference
    if now < default * share("application_clock_share"):
        command = f"nvidia-smi -q -d CLOCK -i {gpu.facts.index}"
        return warned(f"the application clock is set to {now} MHz", f"{default} MHz, the default", command=command)
    return passed(f"application clock {now} MHz, default {default} MHz")


@_performance("pcie-narrow", "PCIe lanes", of=each_gpu(lambda gpu: gpu.pcie_width), row=25)
def _width(gpu: GpuCase[Reading]) -> Judgement:
    """With fewer lanes, data reaches the GPU more slowly, and the GPU waits for it."""
    width = gpu.value
    if width.now == 0:
        return info("the bus reports no width, as in some virtual machines")
    # the number of lanes, unlike their generation, doesn't change while the GPU is idle
    if width.now < width.reference:
        return warned(
            f"{width.now} of {width.reference} PCIe lanes are in use",
            f"{width.reference} lanes; check the slot, the riser, and the firmware settings",
            command="nvidia-smi --query-gpu=pcie.link.width.current,pcie.link.width.max --format=csv",
        )
    words, found = f"all {width.now} PCIe lanes are in use", gpu.facts.pcie_generation.value
    if found is None:
        return passed(f"{words}; unknown generation")
    rest = "" if found.now == found.reference else " while idle; it is checked under load"
    return passed(f"{words}; generation {found.now} of {found.reference}{rest}")


@_performance("nvlink-down", "NVLink connections", of=each_gpu(lambda gpu: gpu.links), row=27)
def _links(gpu: GpuCase[tuple[bool, ...]]) -> Judgement:
    """Without NVLink, GPUs exchange gradients over the slower PCIe bus."""
    active, several = sum(gpu.value), len(gpu.case.facts.gpus) > 1
    words = f"{active} of {len(gpu.value)} NVLink connections are active"
    if not gpu.value:
        return skipped("the GPU has no NVLink")
    if active == len(gpu.value):
        return passed(words)
    # PCIe cards are connected only if someone bought a bridge
    fabric = gpu.facts.fabric.value
    in_fabric = (fabric is not None and fabric.state != 0) or bool(gpu.case.facts.driver.nvswitches)
    if not several or (active == 0 and not in_fabric and "SXM" not in gpu.facts.name):
        return info(f"{words}: {'there is no bridge' if several else 'there is no other GPU to connect to'}")
    return warned(words, "all of them", command=f"nvidia-smi nvlink --status -i {gpu.facts.index}")


@_performance(
    "persistence-off", "Persistence mode", of=each_gpu(lambda gpu: gpu.persistence), severity=Verdict.INFO, row=28
)
def _persistence(gpu: GpuCase[bool]) -> Judgement:
    """Without it, the driver unloads an idle GPU, and the next program waits one to three seconds."""
    if gpu.value:
        return passed("persistence mode is on")
    return info(
        "persistence mode is off, so the first CUDA call of a program waits for the GPU",
        "on (nvidia-persistenced, started by the administrator)",
        command="systemctl status nvidia-persistenced",
    )


@_performance("gpu-busy", "Free GPU memory", of=each_gpu(lambda gpu: gpu.memory), row=29)
def _busy(gpu: GpuCase[Memory]) -> Judgement:
    """If other programs use the memory, training fails with `out of memory`."""
    memory, processes = gpu.value, gpu.facts.processes.value or ()
    used = f"{gib(memory.used)} of {gib(memory.total)} is in use"
    # each GPU has some memory in use: by the driver, ECC, or a desktop
    if memory.used > max(memory.total * share("gpu_used_share"), limit("gpu_used_bytes")):
        wanted = "a free GPU; select one with CUDA_VISIBLE_DEVICES, or wait for the other program"
        command = "nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv"
        return warned(f"{used}, by {_named(processes)}", wanted, command=command)
    if processes:
        return info(f"{used}; {_named(processes)}", command="nvidia-smi")
    return passed(f"{gib(memory.free)} of {gib(memory.total)} is free")


def _named(processes: tuple[Process, ...]) -> str:
    if not processes:
        return "a process that is not visible to this user or container"
    return f"{counted(len(processes), 'process')}: " + ", ".join(f"PID {process.pid}" for process in processes[:5])


@_performance("compute-mode", "Compute mode", of=each_gpu(lambda gpu: gpu.compute_mode), severity=Verdict.FAIL, row=30)
def _compute_mode(gpu: GpuCase[int]) -> Judgement:
    """In other modes than `default`: `all CUDA-capable devices are busy or unavailable`."""
    words = f"compute mode is `{name_of('compute_modes', gpu.value)}`"
    command = "nvidia-smi --query-gpu=index,compute_mode --format=csv"
    if gpu.value == 0:
        return passed(words)
    if gpu.value == _PROHIBITED:
        return failed(f"{words}: no CUDA program can use the GPU", "default", command=command)
    return warned(f"{words}: only one process can use the GPU", "default", command=command)
