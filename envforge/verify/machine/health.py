"""Checks: is the hardware whole? Memory errors, recovery actions, Xid errors. Nothing is ever reset."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.machine.facts import XidEvent
from envforge.verify.machine.gpu_facts import GpuFacts, Mode, RemappedRows, RetiredPages
from envforge.verify.machine.judging import (
    NO_GPU,
    Case,
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
from envforge.verify.machine.tables import Xid, name_of, xid
from envforge.verify.values import Check, Judgement, Verdict

_ECC = "nvidia-smi -q -d ECC"
_ROWS = "nvidia-smi -q -d ROW_REMAPPER"
_PAGES = "nvidia-smi -q -d PAGE_RETIREMENT"
_LOG = "sudo dmesg | grep -i xid | tail -20"


def _recovery(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, action: int) -> Judgement:
        place = {"source": gpu.recovery.source, "subject": subject(gpu)}
        if action == 0:
            return passed("the driver asks for no recovery action", **place)
        words = f"the driver asks for a recovery action: {name_of('recovery_actions', action)}"
        return fail(words, wanted="none", command="nvidia-smi -q | grep -i recovery", **place)

    yield from each_gpu(case, lambda gpu: gpu.recovery, say)


def _uncorrected(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, count: int) -> Judgement:
        place = {"source": gpu.ecc_uncorrected.source, "subject": subject(gpu)}
        if count:
            words = f"{count} uncorrectable memory error(s) since the driver was loaded"
            wanted = "none; after a reset of the GPU by its administrator, if they come back, another GPU"
            return fail(words, wanted=wanted, command=_ECC, **place)
        ever = gpu.ecc_uncorrected_ever.value
        if ever:
            return info(f"none since the driver was loaded, {ever} in the life of the GPU", command=_ECC, **place)
        return passed("no uncorrectable memory error", **place)

    yield from each_gpu(case, lambda gpu: gpu.ecc_uncorrected, say)


def _ecc_mode(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, mode: Mode) -> Judgement:
        place = {"source": gpu.ecc.source, "subject": subject(gpu)}
        if mode.current != mode.pending:
            words = f"ECC is {_word(mode.current)}, and will be {_word(mode.pending)} after the next reset"
            return warn(words, wanted="one state", command=_ECC, **place)
        if not mode.current:
            return info("ECC is off: memory errors go unseen", command=_ECC, **place)
        return passed("ECC is on", **place)

    yield from each_gpu(case, lambda gpu: gpu.ecc, say)


def _word(on: bool) -> str:
    return "on" if on else "off"


def _rows(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, rows: RemappedRows) -> Judgement:
        place = {"source": gpu.rows.source, "subject": subject(gpu)}
        counted = f"{rows.correctable} correctable, {rows.uncorrectable} uncorrectable"
        if rows.failed:
            words = f"a faulty row of memory could not be replaced ({counted})"
            return fail(words, wanted="another GPU: this one has no spare rows left there", command=_ROWS, **place)
        if rows.pending:
            words = f"a row of memory is to be replaced with the next reset of the GPU ({counted})"
            return warn(words, wanted="a reset of the GPU by its administrator", command=_ROWS, **place)
        if rows.correctable or rows.uncorrectable:
            return info(f"rows of memory were replaced ({counted})", command=_ROWS, **place)
        return passed("no row of memory was replaced", **place)

    yield from each_gpu(case, lambda gpu: gpu.rows, say)


def _pages(case: Case) -> Iterator[Judgement]:
    def say(gpu: GpuFacts, pages: RetiredPages) -> Judgement:
        place = {"source": gpu.retired_pages.source, "subject": subject(gpu)}
        if pages.pending:
            words = f"a page of memory is to be retired with the next reset ({pages.double_bit} are by now)"
            return warn(words, wanted="a reset of the GPU by its administrator", command=_PAGES, **place)
        if pages.double_bit:
            return info(
                f"{pages.double_bit} page(s) of memory were retired by double-bit errors", command=_PAGES, **place
            )
        return passed("no page of memory was retired", **place)

    yield from each_gpu(case, lambda gpu: gpu.retired_pages, say)


def _hardware(case: Case) -> Iterator[Judgement]:
    yield from _xids(case, hardware=True)


def _application(case: Case) -> Iterator[Judgement]:
    yield from _xids(case, hardware=False)


def _xids(case: Case, *, hardware: bool) -> Iterator[Judgement]:
    """The codes of one kind; a code that we do not know counts as hardware's, so that nobody overlooks it."""
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
        yield passed(f"no such Xid error in the kernel's log ({signal.source})", source=signal.source)
    for event, row in chosen:
        yield _xid(case, event, row, signal.source)


def _xid(case: Case, event: XidEvent, row: Xid | None, source: str) -> Judgement:
    gpu = _gpu_at(case, event.bus_id)
    place = {"source": source, "command": _LOG, "subject": subject(gpu) if gpu else f"PCI {event.bus_id}"}
    times = "once" if event.count == 1 else f"{event.count} times"
    words = f"Xid {event.code} {times} since the machine started: {row.meaning if row else 'not in our table'}"
    wanted = row.advice if row else "look it up: https://docs.nvidia.com/deploy/xid-errors/"
    if row is not None and gpu is None and case.facts.gpus:
        return info(f"{words} (a GPU of the host that is not ours)", wanted=wanted, **place)
    return Judgement(verdict=_weight(row), observed=words, wanted=wanted, **place)


def _weight(row: Xid | None) -> Verdict:
    """How much a code weighs. One that asks for nothing to be done is a fact, a fault of a program may come again."""
    if row is None:
        return Verdict.WARN
    if row.action == "none":
        return Verdict.INFO
    return Verdict.FAIL if row.kind == "hardware" else Verdict.WARN


def _gpu_at(case: Case, bus_id: str) -> GpuFacts | None:
    return next((gpu for gpu in case.facts.gpus if gpu.bus_id and _place(gpu.bus_id) == _place(bus_id)), None)


def _place(bus_id: str) -> str:
    """Domain (four digits), bus and device: the kernel writes no function, NVML writes eight digits of domain."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"


CHECKS = (
    Check(
        id="recovery-needed",
        question="machine",
        group="health",
        title="the driver asks for no recovery",
        why="The driver itself says that the GPU must be reset or the machine rebooted before it can be trusted",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_recovery),
        row=19,
    ),
    Check(
        id="ecc-uncorrectable",
        question="machine",
        group="health",
        title="no uncorrectable memory errors",
        why="Programs end with `uncorrectable ECC error encountered`, or train on with wrong numbers",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_uncorrected),
        required=True,
        row=20,
    ),
    Check(
        id="ecc-mode",
        question="machine",
        group="health",
        title="ECC is in one state",
        why="A mode that waits for a reset changes memory size and error handling with the next reboot",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_ecc_mode),
        row=20,
    ),
    Check(
        id="row-remap",
        question="machine",
        group="health",
        title="no row of GPU memory waits to be replaced",
        why="Faulty rows stay in use until the next reset; where none can be replaced, the GPU is to be exchanged",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_rows),
        required=True,
        row=21,
    ),
    Check(
        id="retired-pages",
        question="machine",
        group="health",
        title="no page of GPU memory waits to be retired",
        why="On GPUs before Ampere faulty pages stay in use until the next reset",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_pages),
        row=21,
    ),
    Check(
        id="xid-hardware",
        question="machine",
        group="health",
        title="no Xid error of the hardware in the kernel's log",
        why="Xid errors are how the driver reports a failing GPU, often days before it ends a run",
        severity=Verdict.FAIL,
        judge=judged_of_gpu(_hardware),
        row=22,
    ),
    Check(
        id="xid-application",
        question="machine",
        group="health",
        title="no Xid error of a program in the kernel's log",
        why="A program made the GPU fault: often a bug in a kernel, at times the first sign of bad hardware",
        severity=Verdict.WARN,
        judge=judged_of_gpu(_application),
        row=22,
    ),
)
