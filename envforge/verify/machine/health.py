"""Check memory errors, recovery actions, and Xid errors. Nothing is ever reset."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.machine.facts import GpuFacts, Mode, RemappedRows, RetiredPages, XidEvent
from envforge.verify.machine.judging import (
    NO_GPU,
    Case,
    counted,
    each_gpu,
    fail,
    info,
    judged_of_gpu,
    passed,
    skip,
    subject,
    unread,
    warn,
)
from envforge.verify.machine.reference_data import Xid, name_of, xid
from envforge.verify.values import Check, Judgement, Verdict

_ECC = "nvidia-smi -q -d ECC"
_ROWS = "nvidia-smi -q -d ROW_REMAPPER"
_PAGES = "nvidia-smi -q -d PAGE_RETIREMENT"
_LOG = "sudo dmesg | grep -i xid | tail -20"


def _recovery(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, action: int) -> Judgement:
        place = {"source": gpu.recovery.source, "subject": subject(gpu)}
        if action == 0:
            return passed("the driver reports no recovery action", **place)
        words = f"the driver requires a recovery action: {name_of('recovery_actions', action)}"
        return fail(words, wanted="none", command="nvidia-smi -q | grep -i recovery", **place)

    yield from each_gpu(case, lambda gpu: gpu.recovery, say)


def _uncorrected(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, count: int) -> Judgement:
        place = {"source": gpu.ecc_uncorrected.source, "subject": subject(gpu)}
        if count:
            words = f"{counted(count, 'uncorrectable memory error')} since the driver was loaded"
            wanted = "none; if errors come back after a reset by the administrator, the GPU must be replaced"
            return fail(words, wanted=wanted, command=_ECC, **place)
        ever = gpu.ecc_uncorrected_ever.value
        if ever:
            return info(f"none since the driver was loaded, {ever} in the lifetime of the GPU", command=_ECC, **place)
        return passed("no uncorrectable memory error", **place)

    yield from each_gpu(case, lambda gpu: gpu.ecc_uncorrected, say)


def _ecc_mode(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mode: Mode) -> Judgement:
        place = {"source": gpu.ecc.source, "subject": subject(gpu)}
        if mode.current != mode.pending:
            words = f"ECC is {_word(mode.current)} now, and {_word(mode.pending)} after the next reset"
            return warn(words, wanted="the same mode now and after the reset", command=_ECC, **place)
        if not mode.current:
            return info("ECC is off, so memory errors are not detected", command=_ECC, **place)
        return passed("ECC is on", **place)

    yield from each_gpu(case, lambda gpu: gpu.ecc, say)


def _word(on: bool) -> str:
    return "on" if on else "off"


def _rows(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, rows: RemappedRows) -> Judgement:
        place = {"source": gpu.rows.source, "subject": subject(gpu)}
        total = f"{rows.correctable} correctable, {rows.uncorrectable} uncorrectable"
        if rows.failed:
            words = f"a faulty row of memory could not be replaced ({total})"
            return fail(words, wanted="a spare row; without one, the GPU must be replaced", command=_ROWS, **place)
        if rows.pending:
            words = f"a row of memory will be replaced at the next reset of the GPU ({total})"
            return warn(words, wanted="a reset of the GPU by the administrator", command=_ROWS, **place)
        if rows.correctable or rows.uncorrectable:
            return info(f"rows of memory were replaced ({total})", command=_ROWS, **place)
        return passed("no row of memory was replaced", **place)

    yield from each_gpu(case, lambda gpu: gpu.rows, say)


def _pages(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, pages: RetiredPages) -> Judgement:
        place = {"source": gpu.retired_pages.source, "subject": subject(gpu)}
        if pages.pending:
            words = f"a page of memory will be retired at the next reset ({pages.double_bit} retired so far)"
            return warn(words, wanted="a reset of the GPU by the administrator", command=_PAGES, **place)
        if pages.double_bit:
            return info(
                f"{counted(pages.double_bit, 'page')} of memory retired because of double-bit errors",
                command=_PAGES,
                **place,
            )
        return passed("no page of memory was retired", **place)

    yield from each_gpu(case, lambda gpu: gpu.retired_pages, say)


def _hardware(case: Case) -> Iterator[Judgement]:
    yield from _xids(case, hardware=True)


def _application(case: Case) -> Iterator[Judgement]:
    yield from _xids(case, hardware=False)


def _xids(case: Case, *, hardware: bool) -> Iterator[Judgement]:
    """Judge the codes of one kind; an unknown code is treated as hardware, so that it isn't overlooked."""
    signal = case.facts.system.xids
    if case.machine.driver is None and not case.facts.driver.pci and not signal.value:
        yield skip(NO_GPU)
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
    gpu = _gpu_at(case, event.bus_id)
    place = {"source": source, "command": _LOG, "subject": subject(gpu) if gpu else f"PCI {event.bus_id}"}
    times = "once" if event.count == 1 else f"{event.count} times"
    words = f"Xid {event.code} {times} since the machine started: {row.meaning if row else 'not in the Xid table'}"
    wanted = row.advice if row else "see https://docs.nvidia.com/deploy/xid-errors/"
    if row is not None and gpu is None and case.facts.gpus:
        return info(f"{words} (on a GPU of the host that this machine does not use)", wanted=wanted, **place)
    return Judgement(verdict=_weight(row), observed=words, wanted=wanted, **place)


def _weight(row: Xid | None) -> Verdict:
    """Return the verdict of a code. A code without an action is a fact; an error of a program can happen again."""
    if row is None:
        return Verdict.WARN
    if row.action == "none":
        return Verdict.INFO
    return Verdict.FAIL if row.kind == "hardware" else Verdict.WARN


def _gpu_at(case: Case, bus_id: str) -> GpuFacts | None:
    return next((gpu for gpu in case.facts.gpus if gpu.bus_id and _place(gpu.bus_id) == _place(bus_id)), None)


def _place(bus_id: str) -> str:
    """Return domain (four digits), bus, and device: the kernel writes no function, NVML eight digits of domain."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"


CHECKS = (
    Check(
        id="recovery-needed",
        question="machine",
        group="health",
        title="Recovery action reported by the driver",
        why="Until the reset or reboot that the driver reports, results of this GPU can't be trusted.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_recovery),
        row=19,
    ),
    Check(
        id="ecc-uncorrectable",
        question="machine",
        group="health",
        title="Uncorrectable memory errors",
        why="Programs fail with `uncorrectable ECC error encountered`, or continue with wrong numbers.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_uncorrected),
        required=True,
        row=20,
    ),
    Check(
        id="ecc-mode",
        question="machine",
        group="health",
        title="ECC mode",
        why="A pending mode changes memory size and error handling at the next reset.",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_ecc_mode),
        row=20,
    ),
    Check(
        id="row-remap",
        question="machine",
        group="health",
        title="Remapped rows of GPU memory",
        why="Faulty rows are used until the next reset. If no spare row is left, the GPU must be replaced.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_rows),
        required=True,
        row=21,
    ),
    Check(
        id="retired-pages",
        question="machine",
        group="health",
        title="Retired pages of GPU memory",
        why="On GPUs before Ampere, faulty pages are used until the next reset.",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_pages),
        row=21,
    ),
    Check(
        id="xid-hardware",
        question="machine",
        group="health",
        title="Hardware Xid errors in the kernel log",
        why="The driver logs Xid errors when a GPU fails, often days before a run crashes.",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_hardware),
        row=22,
    ),
    Check(
        id="xid-application",
        question="machine",
        group="health",
        title="Application Xid errors in the kernel log",
        why="A program caused a GPU error: often a bug in a kernel, sometimes the first sign of failing hardware.",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_application),
        row=22,
    ),
)
