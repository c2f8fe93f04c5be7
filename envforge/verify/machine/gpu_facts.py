"""Define the signals of one GPU in JSON types; names contain the units, and codes are NVML's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from envforge.verify.values import Signal


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
