"""Hold what was read of a machine, and what was concluded from it, as input for the conditions."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from envforge.machine import Driver, Gpu
from envforge.machine.visible import Visible
from envforge.probe.libraries import LibraryReport
from envforge.probe.smi import SmiAnswer
from envforge.probe.system import SystemReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that was read."""

    system: SystemReport
    libraries: LibraryReport
    smi: SmiAnswer | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """What was concluded; ``compat_cuda`` is the CUDA version that a ``cuda-compat`` library reports."""

    evidence: Evidence
    driver: Driver | None
    gpus: tuple[Gpu, ...]
    visible: Visible
    visible_text: str | None
    compat_cuda: Version | None
    by_pci_order: bool
