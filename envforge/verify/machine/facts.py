"""Describe what `verify machine` reads, and the signals of each GPU.

A missing line is a timeout or a crash; they can't be distinguished (docs/decisions/0010).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, get_args, get_type_hints

import msgspec

from envforge.lock.needs import Needed
from envforge.machine.driver_child import SOURCES
from envforge.machine.evidence import NvmlCode
from envforge.machine.nvidia_text import clean
from envforge.machine.values import Gpu, Machine
from envforge.verify.values import Signal, SignalCode


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The memory of a GPU in bytes."""

    total: int
    free: int
    used: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """A mode of the GPU and the one that it gets with the next reset."""

    current: bool
    pending: bool

    @property
    def words(self) -> str:
        """Both modes, such as ``on now, and off after the next reset``."""
        return f"{'on' if self.current else 'off'} now, and {'on' if self.pending else 'off'} after the next reset"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemappedRows:
    """Rows of memory that were replaced by spare ones (Ampere and newer)."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RetiredPages:
    """Pages of memory that are no longer used (before Ampere), by double-bit errors."""

    double_bit: int
    pending: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fabric:
    """The GPU's place in an NVSwitch fabric, in the numbers of nvml.h."""

    state: int
    status: int
    health_mask: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A value as it is now and the one to compare it with (the most, or the default)."""

    now: int
    reference: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process on the GPU; the driver does not tell every user how much memory it holds."""

    pid: int
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """One GPU as the driver numbers it, each signal with its source or with the reason why it is not known."""

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
    clocks_mhz: Signal[Reading] = field(default_factory=Signal)
    application_clocks_mhz: Signal[Reading] = field(default_factory=Signal)
    pcie_width: Signal[Reading] = field(default_factory=Signal)
    pcie_generation: Signal[Reading] = field(default_factory=Signal)
    temperature_c: Signal[int] = field(default_factory=Signal)
    processes: Signal[tuple[Process, ...]] = field(default_factory=Signal)


NO_LOCK = "no lockfile"


@dataclass(frozen=True, kw_only=True, slots=True)
class PciGpu:
    """One NVIDIA GPU on the PCI bus; ``driver`` is the kernel driver that holds it."""

    bus_id: str
    device_id: str
    driver: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFile:
    """One of the driver's files in ``/dev``, and whether this user may read and write it."""

    path: str
    usable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricManager:
    """The service that sets up NVSwitch; its version must be the driver's."""

    version: str | None
    active: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverFacts:
    """What the driver's parts said, below what ``detect`` concludes. Codes are NVML's own."""

    kernel_module: Signal[str] = field(default_factory=Signal)
    nvml: Signal[str] = field(default_factory=Signal)
    nvml_code: int | None = None
    libcuda: Signal[str] = field(default_factory=Signal)
    libcuda_is_compat: bool = False
    is_jetson: bool = False
    has_nouveau: bool = False
    pci: tuple[PciGpu, ...] = ()
    nvswitches: int = 0
    device_files: tuple[DeviceFile, ...] = ()
    fabric_manager: Signal[FabricManager] = field(default_factory=Signal)


@dataclass(frozen=True, kw_only=True, slots=True)
class XidEvent:
    """Xid errors of one kind in the kernel's log: the last line of ``count`` is kept."""

    code: int
    bus_id: str
    count: int
    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The room on the disk of one place: the prefix, the cache, temporary files.

    ``folder`` is the nearest one to ``path`` that is there.
    """

    role: str
    path: str
    folder: str
    free_bytes: int
    free_inodes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A number with a limit that may be missing: None is unlimited."""

    limit: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The processors that this process may use: by affinity, and by the quota of its cgroup (None is none)."""

    processors: int
    quota: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The processor, with the instruction sets that its kernel names."""

    model: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemFacts:
    """What the operating system gives to a training run."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class LockNeeds:
    """What the lock needs of a machine, read before anything is installed.

    ``platforms`` are those of the lock, ``platform`` the one of this machine. ``capabilities`` and ``ptx`` are the
    kernels of the locked torch, where its build is known. ``misplaced`` names wheels that fit no Python of the lock.
    """

    platform: str
    platforms: tuple[str, ...]
    words: str
    torch: str | None = None
    tag: str | None = None
    glibc: Needed | None = None
    cuda: Needed | None = None
    capabilities: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    download_bytes: int = 0
    files: int = 0
    files_sized: int = 0
    is_installed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """The machine record of ``detect`` and what goes beyond it.

    ``variables`` holds those that the checks look at and that are set, no others.
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
    """Return the answers by GPU and key; a line that isn't JSON was cut by a crash or written by a library."""
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    for line in lines.splitlines():
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(answer, dict) and answer.get("library") == "health":
            answers[answer["gpu"], answer["key"]] = answer
    return answers


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
    """Convert the value of a signal; NVML has numbers for truth, and lists for what is a dataclass here."""
    if is_dataclass(type_) and isinstance(value, list):
        value = dict(zip((each.name for each in fields(type_)), value, strict=True))
    return msgspec.convert(value, type_, strict=False)
