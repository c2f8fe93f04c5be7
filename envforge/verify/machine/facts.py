"""Describe what `verify machine` reads, and the signals of each GPU.

A missing line is a timeout or a crash; they can't be distinguished (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct, field

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.lock.needs import Needed
from envforge.machine.driver_child import SOURCES
from envforge.machine.evidence import NvmlCode, PciDevice, read_lines
from envforge.machine.values import Gpu, Machine, clean
from envforge.verify.values import Signal, SignalCode


class Memory(Struct, frozen=True, kw_only=True):
    """The memory of a GPU in bytes."""

    total: int
    free: int
    used: int


class Mode(Struct, frozen=True, kw_only=True):
    """A mode of the GPU, now and after the next reset."""

    current: bool
    pending: bool

    @property
    def words(self) -> str:
        """Both modes, such as ``on now, and off after the next reset``."""
        return f"{'on' if self.current else 'off'} now, and {'on' if self.pending else 'off'} after the next reset"


class RemappedRows(Struct, frozen=True, kw_only=True):
    """Rows of memory that were replaced by spare ones (Ampere and newer)."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


class RetiredPages(Struct, frozen=True, kw_only=True):
    """Pages of memory that are no longer used (before Ampere), by double-bit errors."""

    double_bit: int
    pending: bool


class Fabric(Struct, frozen=True, kw_only=True):
    """The GPU's place in an NVSwitch fabric, in the numbers of nvml.h."""

    state: int
    status: int
    health_mask: int


class Reading(Struct, frozen=True, kw_only=True):
    """A current value, and the maximum or default to compare it with."""

    now: int
    reference: int


class Process(Struct, frozen=True, kw_only=True):
    """A process on the GPU; ``memory_bytes`` is None if the driver does not report it to this user."""

    pid: int
    memory_bytes: int | None = None


class GpuFacts(Struct, frozen=True, kw_only=True):
    """One GPU by the driver's number. Each signal has its source, or the reason why it is not known."""

    index: int
    name: str
    bus_id: str | None = None
    handle: Signal[bool] = field(default_factory=Signal)
    memory: Signal[Memory] = field(default_factory=Signal)
    recovery: Signal[int] = field(default_factory=Signal)
    ecc: Signal[Mode] = field(default_factory=Signal)
    ecc_uncorrected: Signal[int] = field(default_factory=Signal)
    ecc_uncorrected_ever: Signal[int] = field(default_factory=Signal)
    rows: Signal[RemappedRows] = field(default_factory=Signal)
    retired_pages: Signal[RetiredPages] = field(default_factory=Signal)
    fabric: Signal[Fabric] = field(default_factory=Signal)
    links: Signal[tuple[bool, ...]] = field(default_factory=Signal)
    mig: Signal[Mode] = field(default_factory=Signal)
    compute_mode: Signal[int] = field(default_factory=Signal)
    persistence: Signal[bool] = field(default_factory=Signal)
    event_reasons: Signal[int] = field(default_factory=Signal)
    power_mw: Signal[Reading] = field(default_factory=Signal)
    application_clocks_mhz: Signal[Reading] = field(default_factory=Signal)
    pcie_width: Signal[Reading] = field(default_factory=Signal)
    pcie_generation: Signal[Reading] = field(default_factory=Signal)
    temperature_c: Signal[int] = field(default_factory=Signal)
    processes: Signal[tuple[Process, ...]] = field(default_factory=Signal)


NO_LOCK = "no lockfile"


class DeviceFile(Struct, frozen=True, kw_only=True):
    """One of the driver's files in ``/dev``, and whether this user may read and write it."""

    path: str
    usable: bool


class FabricManager(Struct, frozen=True, kw_only=True):
    """The service that sets up NVSwitch; its version must be the driver's."""

    version: str | None
    active: bool | None


class DriverFacts(Struct, frozen=True, kw_only=True):
    """What the parts of the driver report, before ``envforge detect`` draws its conclusions."""

    kernel_module: Signal[str] = field(default_factory=Signal)
    nvml: Signal[str] = field(default_factory=Signal)
    libcuda: Signal[str] = field(default_factory=Signal)
    libcuda_is_compat: bool = False
    is_jetson: bool = False
    has_nouveau: bool = False
    pci: tuple[PciDevice, ...] = ()
    nvswitches: int = 0
    device_files: tuple[DeviceFile, ...] = ()
    fabric_manager: Signal[FabricManager] = field(default_factory=Signal)


class XidEvent(Struct, frozen=True, kw_only=True):
    """Xid errors with one code on one GPU in the kernel log; ``line`` is the last of ``count``."""

    code: int
    bus_id: str
    count: int
    line: str


class Room(Struct, frozen=True, kw_only=True):
    """The free space for an environment, the package cache, or temporary files.

    ``folder`` is the nearest existing directory to ``path``.
    """

    role: str
    path: str
    folder: str
    free_bytes: int
    free_inodes: int | None = None


class Bound(Struct, frozen=True, kw_only=True):
    """A limit; None is unlimited."""

    limit: int | None


class Share(Struct, frozen=True, kw_only=True):
    """The CPUs that this process may use: by affinity, and by the quota of its control group (None: no quota)."""

    processors: int
    quota: float | None = None


class Cpu(Struct, frozen=True, kw_only=True):
    """The model of the CPU, and the instruction sets that the kernel reports."""

    model: str
    flags: tuple[str, ...]


class SystemFacts(Struct, frozen=True, kw_only=True):
    """The limits and resources that the operating system gives a training run."""

    container: str | None = None
    is_wsl: bool = False
    scheduler: str | None = None
    shared_memory: Signal[Room] = field(default_factory=Signal)
    rooms: tuple[Signal[Room], ...] = ()
    memory_bytes: Signal[int] = field(default_factory=Signal)
    memory_limit: Signal[Bound] = field(default_factory=Signal)
    processors: Signal[Share] = field(default_factory=Signal)
    open_files: Signal[Bound] = field(default_factory=Signal)
    open_files_hard: Signal[Bound] = field(default_factory=Signal)
    locked_memory: Signal[Bound] = field(default_factory=Signal)
    cpu: Signal[Cpu] = field(default_factory=Signal)
    clock_kept: Signal[bool] = field(default_factory=Signal)
    now: Signal[datetime] = field(default_factory=Signal)
    newest_file: Signal[datetime] = field(default_factory=Signal)
    xids: Signal[tuple[XidEvent, ...]] = field(default_factory=Signal)


class LockNeeds(Struct, frozen=True, kw_only=True):
    """What the lockfile requires of a machine, read before anything is installed.

    ``platforms`` are those of the lockfile, and ``platform`` is this machine's. ``capabilities`` and ``ptx`` are the
    kernels of the locked torch, if its build is known. ``misplaced`` names wheels that no locked Python supports.
    """

    platform: str
    platforms: tuple[str, ...]
    words: str
    torch: str | None = None
    tag: WheelTag | None = None
    glibc: Needed | None = None
    cuda: Needed | None = None
    capabilities: tuple[ComputeCapability, ...] = ()
    ptx: tuple[ComputeCapability, ...] = ()
    misplaced: tuple[str, ...] = ()
    download_bytes: int = 0
    files: int = 0
    files_sized: int = 0
    is_installed: bool = False


class MachineFacts(Struct, frozen=True, kw_only=True):
    """The record of ``envforge detect``, and the facts that only ``verify`` reads.

    ``variables`` has the environment variables that checks use, if they are set.
    """

    machine: Machine
    driver: DriverFacts = field(default_factory=DriverFacts)
    gpus: tuple[GpuFacts, ...] = ()
    system: SystemFacts = field(default_factory=SystemFacts)
    variables: dict[str, str] = field(default_factory=dict)
    lock: Signal[LockNeeds] = field(default_factory=Signal)


_REASONS: Mapping[int, tuple[str, SignalCode]] = {  # by NVML's number of the error
    NvmlCode.NOT_SUPPORTED: ("not supported by this GPU or its driver", "not-supported"),
    NvmlCode.FUNCTION_NOT_FOUND: ("not supported by this GPU or its driver", "not-supported"),
    NvmlCode.NO_PERMISSION: ("no permission to read it", "no-permission"),
}
_NO_ANSWER = "the driver did not respond in time, or crashed the process that queried it"

Answers = Mapping[tuple[int, str], Mapping[str, Any]]


def read_answers(lines: str) -> Answers:
    """Return the answers about health by GPU and key."""
    return {(answer["gpu"], answer["key"]): answer for answer in read_lines(lines) if answer["library"] == "health"}


def gpu_facts(gpu: Gpu, answers: Answers) -> GpuFacts:
    """Return all signals of one GPU."""
    hints = get_type_hints(GpuFacts)
    signals = {key: _signal(gpu.index, key, get_args(hints[key])[0], answers) for key in SOURCES}
    return GpuFacts(index=gpu.index, name=gpu.name, bus_id=gpu.pci_bus_id, **signals)


def _signal(gpu: int, key: str, type_: Any, answers: Answers) -> Signal[Any]:
    source = SOURCES[key]
    answer = answers.get((gpu, key))
    if answer is not None and "error" not in answer:
        return Signal(value=_value(answer["value"], type_), source=source)
    handle = answers.get((gpu, "handle"), {})
    error = answer["error"] if answer is not None else handle.get("error")
    if not error:
        return Signal(source=source, unreadable=_NO_ANSWER, code="no-answer")
    number, text = error["code"], clean(str(error["text"]))
    if number in _REASONS:
        reason, code = _REASONS[number]
        return Signal(source=source, unreadable=reason, code=code)
    is_lost = number in (NvmlCode.GPU_IS_LOST, NvmlCode.RESET_REQUIRED)
    return Signal(source=source, unreadable=f"NVML error {number}: {text}", code="gpu-lost" if is_lost else None)


def _value(value: Any, type_: Any) -> Any:
    """Convert the value of a signal; NVML has numbers for truth, and lists for what is a struct here."""
    if isinstance(value, list) and isinstance(type_, type) and issubclass(type_, Struct):
        value = dict(zip(type_.__struct_fields__, value, strict=True))
    return msgspec.convert(value, type_, strict=False)
