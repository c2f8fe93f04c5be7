"""Look up what is known of GPUs and drivers: products, compute capabilities, and the branches that support them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from packaging.version import Version

from envforge.base.terms import ComputeCapability


@dataclass(frozen=True, kw_only=True, slots=True)
class PciRow:
    """A GPU known by its PCI device ID."""

    chip: str
    name: str
    compute_capability: ComputeCapability


@dataclass(frozen=True, kw_only=True, slots=True)
class _PciTable:
    """``nvidia-pci.toml``: the capability of each chip, and the chip and product of each device ID."""

    chips: dict[str, ComputeCapability]
    devices: dict[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Branch:
    """A driver branch, and the newest CUDA that it supports."""

    driver: int
    cuda: Version


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverSupport:
    """The first and the last driver branch that support a compute capability, as far as they are known.

    From ``sbsa_cuda`` on, a Tegra chip runs code of the wheels for servers.
    """

    capability: ComputeCapability
    first: int | None = None
    last: int | None = None
    sbsa_cuda: Version | None = None

    def has(self, driver: Version) -> bool:
        """Return whether the branches, as far as they are known, include the one of a driver."""
        return (self.first or 0) <= driver.major <= (self.last or driver.major)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tegra:
    """A Tegra chip, and the name that ``nvidia-smi`` prints for its GPU."""

    chip: str
    name: str
    capability: ComputeCapability


@dataclass(frozen=True, kw_only=True, slots=True)
class _DriverTable:
    """``nvidia-drivers.json``: the branches, oldest first, the Tegra chips, and the oldest GPU of the open modules."""

    branches: tuple[_Branch, ...]
    open_modules_from: ComputeCapability
    supports: tuple[DriverSupport, ...]
    tegra: tuple[_Tegra, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherVendor:
    """A vendor of GPUs for which PyTorch has builds on another index, and the names of its GPUs by their device ID."""

    id: str
    name: str
    builds: str
    index: str
    devices: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _OtherTable:
    """``other-gpus.json``."""

    vendors: tuple[OtherVendor, ...]


@cache
def _drivers() -> _DriverTable:
    from envforge.base.data_files import read_data  # noqa: PLC0415 - only a machine with a driver needs it

    return read_data("nvidia-drivers.json", _DriverTable)


@cache
def _pci() -> _PciTable:
    from envforge.base.data_files import read_data  # noqa: PLC0415 - as above

    return read_data("nvidia-pci.toml", _PciTable)


@cache
def other_vendors() -> tuple[OtherVendor, ...]:
    """Return the vendors of GPUs that envforge recognizes but selects no builds for."""
    from envforge.base.data_files import read_data  # noqa: PLC0415 - as above

    return read_data("other-gpus.json", _OtherTable).vendors


def branch_cuda(driver: Version) -> Version | None:
    """Return the newest CUDA that the driver supports without a compatibility library; None for an unknown branch."""
    return next((row.cuda for row in _drivers().branches if row.driver == driver.major), None)


def nearest_branch_cuda(driver: Version) -> Version | None:
    """Return the newest CUDA of the driver's branch, or of the nearest older branch in the table; None without one."""
    older = [row for row in _drivers().branches if row.driver <= driver.major]
    return older[-1].cuda if older else None


def driver_support(capability: ComputeCapability) -> DriverSupport:
    """Return the driver branches that support a GPU."""
    rows = _drivers().supports
    return next((row for row in rows if row.capability == capability), DriverSupport(capability=capability))


def has_open_module(capability: ComputeCapability) -> bool:
    """Return whether the open kernel modules of the driver support a GPU."""
    return capability >= _drivers().open_modules_from


def tegra_capability(compatible: str) -> ComputeCapability | None:
    """Return the compute capability of a Jetson, from the contents of ``/proc/device-tree/compatible``."""
    return next((row.capability for row in _drivers().tegra if f"nvidia,{row.chip}" in compatible), None)


def is_tegra(capability: ComputeCapability) -> bool:
    """Return whether GPUs of a compute capability are part of a Tegra chip, whose drivers have their own numbers."""
    return any(row.capability == capability for row in _drivers().tegra)


def pci_gpu(device_id: str) -> PciRow | None:
    """Return the GPU with a PCI device ID of vendor NVIDIA, such as ``0x2237``; None if it isn't in the table."""
    row = _pci().devices.get(device_id.lower().removeprefix("0x"))
    if row is None:
        return None
    chip, name = row
    return PciRow(chip=chip, name=name, compute_capability=_pci().chips[chip])


def named_capability(name: str) -> ComputeCapability | None:
    """Return the compute capability of a GPU by its name; None unless all products of this name have the same.

    The name may be one of ``nvidia-smi`` (``NVIDIA A100-SXM4-40GB``), which truncates long ones with ``...``, of a
    Kubernetes label (``Tesla-T4-SHARED``), or of Slurm (``gtx_1080_ti``).
    """
    if len(name) > LONGEST_NAME:
        return None
    tegra = next((row.capability for row in _drivers().tegra if re.search(rf"\b{row.name}\b", name)), None)
    if tegra is not None:
        return tegra
    whole, dots, _ = name.partition("...")
    key = " ".join(_tokens(whole))
    if dots and key:
        found = {each for product, known in _products().items() for each in known if product.startswith(key)}
    else:
        found = set(_products().get(key, ()))
    return found.pop() if len(found) == 1 else None


@cache
def _products() -> dict[str, set[ComputeCapability]]:
    """Return the compute capabilities of each product, by the tokens of its name."""
    found: dict[str, set[ComputeCapability]] = {}
    for chip, names in _pci().devices.values():
        for name in _alternatives(names):
            if key := " ".join(_tokens(name)):
                found.setdefault(key, set()).add(_pci().chips[chip])
    return found


def _alternatives(names: str) -> Iterator[str]:
    """Yield each product of an entry such as ``GeForce RTX 3060 Ti / 3070``."""
    first, *others = re.split(r" ?/ ?", names)
    yield first
    series = re.match(r"(?:GeForce |Quadro |Tesla )?[A-Z]+(?= )", first)
    for other in others:
        yield f"{series[0]} {other}" if series and other[:1].isdigit() else other


LONGEST_NAME = 200  # NVML's longest is 96; much longer lines take seconds
_SLICE = re.compile(r"(?:mig[-_ ]?)?\b\d{1,2}g\.\d{1,4}gb(?:\+[\w.]+)?", re.IGNORECASE)
_GLUED = (
    (re.compile(r"\b(rtx|gtx|gt|titan|quadro|tesla|geforce)(?=[a-z]?\d)"), r"\1 "),
    (re.compile(r"\btitan(?=(?:v|xp|x|rtx)\b)"), "titan "),
    (re.compile(r"(?<=\d)(ti|super|ada|blackwell)\b"), r" \1"),
)
# words that don't tell products of different chips apart, sizes of memory, which each tool spells in its own way, and
# profiles of virtual GPUs such as `24Q`
_SILENT = re.compile(
    r"nvidia|corporation|tesla|geforce|gpu|generation|laptop|mobile|max|q|maxq|design|server|workstation|edition|oem|hgx|grid"
    r"|shared|vf|sxm\d?|pcie?\d?|nvl\d?|hbm\d?e?|ac|\d{1,3}[abcq]|\d+gi?b?|\d+gib|(?:1[26]|2[04]|32|4[08]|64|80|9[46]|141)"
)


def _tokens(name: str) -> list[str]:
    text = _SLICE.sub(" ", name).lower()
    text = re.sub(r"[^a-z0-9]+", " ", text)
    for glued, split in _GLUED:
        text = glued.sub(split, text)
    words = text.split()
    return [word for word in words if not _SILENT.fullmatch(word)]
