"""Look up facts about NVIDIA hardware and drivers that the machine doesn't report, in ``envforge/data``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.version import Version

from envforge.cuda import ComputeCapability
from envforge.resources import read_data


@dataclass(frozen=True, kw_only=True, slots=True)
class PciGpu:
    """A GPU known by its PCI device ID."""

    chip: str
    name: str
    compute_capability: ComputeCapability


@cache
def _drivers() -> dict[str, Any]:
    return read_data("nvidia-drivers.toml")


@cache
def _pci() -> dict[str, Any]:
    return read_data("nvidia-pci.toml")


def branch_cuda(driver: Version) -> Version | None:
    """Return the newest CUDA that the driver supports without a compatibility library; None for an unknown branch."""
    cuda = _drivers()["branches"].get(str(driver.major))
    return Version(cuda) if cuda else None


def nearest_branch_cuda(driver: Version) -> Version | None:
    """Return the newest CUDA of the driver's branch, or of the nearest older branch in the table; None without one."""
    older = [int(branch) for branch in _drivers()["branches"] if int(branch) <= driver.major]
    return Version(_drivers()["branches"][str(max(older))]) if older else None


def tegra_capability(compatible: str) -> ComputeCapability | None:
    """Return the compute capability of a Jetson, from the contents of ``/proc/device-tree/compatible``."""
    for chip, capability in _drivers()["tegra"].items():
        if f"nvidia,{chip}" in compatible:
            return ComputeCapability.parse(capability)
    return None


def pci_gpu(device_id: str) -> PciGpu | None:
    """Return the GPU with a PCI device ID of vendor NVIDIA, such as ``0x2237``; None if it isn't in the table."""
    row = _pci()["devices"].get(device_id.removeprefix("0x").lower())
    if row is None:
        return None
    chip, name = row
    return PciGpu(chip=chip, name=name, compute_capability=ComputeCapability.parse(_pci()["chips"][chip]))
