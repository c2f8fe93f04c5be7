"""Define the facts of a machine: each signal has its source, or the reason why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envforge.verify.machine.gpu_facts import GpuFacts
from envforge.verify.values import Signal

NO_LOCK = "no lockfile"
OLD_NO_LOCK = "there is no lock here"  # records of envforge 0.1.0 contain this string


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
    now: Signal[str] = field(default_factory=Signal)
    newest_file: Signal[str] = field(default_factory=Signal)
    xids: Signal[tuple[XidEvent, ...]] = field(default_factory=Signal)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """A version that the lock needs, and the package that says so."""

    version: str
    package: str


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

    machine: dict[str, Any]
    driver: DriverFacts = field(default_factory=DriverFacts)
    gpus: tuple[GpuFacts, ...] = ()
    system: SystemFacts = field(default_factory=SystemFacts)
    variables: dict[str, str] = field(default_factory=dict)
    lock: Signal[LockNeeds] = field(default_factory=Signal)
