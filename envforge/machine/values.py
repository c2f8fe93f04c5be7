"""Describe a computer as frozen values, with the source of each fact.

``machine.record`` converts a ``Machine`` to and from JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from envforge.base.terms import ComputeCapability


@dataclass(frozen=True, kw_only=True, slots=True)
class MigDevice:
    """One instance of a GPU that is partitioned with MIG; programs select it by its UUID."""

    name: str | None = None
    uuid: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU as the driver numbers it, before ``CUDA_VISIBLE_DEVICES`` applies."""

    index: int
    name: str
    compute_capability: ComputeCapability | None = None
    uuid: str | None = None
    memory_bytes: int | None = None
    mig_enabled: bool | None = None
    pci_bus_id: str | None = None
    mig_devices: tuple[MigDevice, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The NVIDIA driver: its kernel module, its user-space libraries, and the newest CUDA that it supports."""

    kernel_version: Version | None = None
    user_version: Version | None = None
    cuda: Version | None = None

    @property
    def version(self) -> Version | None:
        """The driver version that CUDA programs see: user space, or the kernel module if that is unknown."""
        return self.user_version or self.kernel_version


def driver_text(version: Version) -> str:
    """Return a driver version as NVIDIA writes it: ``535.216.01``, which ``str`` would shorten to ``535.216.1``.

    NVIDIA pads the last number to two digits, except on Jetson (``540.4.0``).
    """
    first, *rest = version.release
    if len(rest) == 2 and rest[0] < 10:
        return f"{first}.{rest[0]}.{rest[1]}"
    return ".".join([str(first), *(f"{part:02d}" for part in rest)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A fact that the user sets with an environment variable, for example ``CONDA_OVERRIDE_CUDA``."""

    variable: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A state of the machine that keeps programs from the GPU, with its cause and remedy."""

    code: str
    symptom: str
    cause: str
    remedy: str


UNREADABLE_SMI = "nvidia-smi-unreadable"
"""The code of the condition that ``nvidia-smi`` printed something that isn't known: there may be a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One computer; ``sources`` maps the name of a fact to the place where it was read."""

    platform: str
    python: Version
    glibc: Version | None = None
    driver: Driver | None = None
    gpus: tuple[Gpu, ...] = ()
    visible: tuple[int, ...] | None = None
    capability_override: ComputeCapability | None = None
    container: str | None = None
    is_wsl: bool = False
    hostname: str | None = None
    overrides: tuple[Override, ...] = ()
    conditions: tuple[Condition, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that CUDA programs see, in the order in which they see them."""
        if self.visible is None:
            return self.gpus
        by_index = {gpu.index: gpu for gpu in self.gpus}
        return tuple(by_index[index] for index in self.visible if index in by_index)

    @property
    def capabilities(self) -> tuple[ComputeCapability, ...]:
        """The distinct compute capabilities that a build must support, lowest first."""
        if self.capability_override is not None:
            return (self.capability_override,)
        return tuple(sorted({gpu.compute_capability for gpu in self.visible_gpus if gpu.compute_capability}))

    @property
    def has_nvidia(self) -> bool:
        """True if there is any sign of an NVIDIA driver or GPU, set by the user or detected."""
        is_unknown = any(condition.code == UNREADABLE_SMI for condition in self.conditions)
        return self.driver is not None or bool(self.gpus) or self.capability_override is not None or is_unknown

    @property
    def cuda_is_stated(self) -> bool:
        """True if the user set ``driver.cuda`` (``CONDA_OVERRIDE_CUDA``), which precedes driver versions."""
        return any(override.variable == "CONDA_OVERRIDE_CUDA" for override in self.overrides)

    def source(self, fact: str) -> str | None:
        """Return where a fact was read, for example ``driver.cuda``; None if it is unknown."""
        return dict(self.sources).get(fact)
