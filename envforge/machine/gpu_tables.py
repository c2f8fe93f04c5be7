"""Look up what is known of GPUs and drivers, and recognize GPUs of AMD and Intel.

The tables have products, compute capabilities, and the driver branches that support them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.values import OTHER_GPU, Condition
from envforge.machine.world import World


class PciRow(Struct, frozen=True, kw_only=True):
    """A GPU known by its PCI device ID."""

    chip: str
    name: str
    compute_capability: ComputeCapability


class _PciTable(Struct, frozen=True, kw_only=True):
    """``nvidia-pci.toml``: the capability of each chip, and the chip and product of each device ID."""

    chips: dict[str, ComputeCapability]
    devices: dict[str, tuple[str, str]]


class _Branch(Struct, frozen=True, kw_only=True):
    """A driver branch, and the newest CUDA that it supports."""

    driver: int
    cuda: Version


class DriverSupport(Struct, frozen=True, kw_only=True):
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


class _Tegra(Struct, frozen=True, kw_only=True):
    """A Tegra chip, and the name that ``nvidia-smi`` prints for its GPU."""

    chip: str
    name: str
    capability: ComputeCapability


class _DriverTable(Struct, frozen=True, kw_only=True):
    """``nvidia-drivers.json``: the branches, oldest first, the Tegra chips, and the oldest GPU of the open modules."""

    branches: tuple[_Branch, ...]
    open_modules_from: ComputeCapability
    supports: tuple[DriverSupport, ...]
    tegra: tuple[_Tegra, ...]


class OtherVendor(Struct, frozen=True, kw_only=True):
    """A vendor of GPUs for which PyTorch has builds on another index, and the names of its GPUs by their device ID."""

    id: str
    name: str
    builds: str
    index: str
    devices: dict[str, str]


class _OtherTable(Struct, frozen=True, kw_only=True):
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


_DISPLAY = ("0x03", "0x12")  # PCI classes: display controllers, and processing accelerators such as the Instinct MI300X
_INTEGRATED = "0000:00:02.0"  # where Intel's integrated GPU is
_KFD = "/sys/class/kfd/kfd/topology/nodes"


class OtherGpu(Struct, frozen=True, kw_only=True):
    """A GPU of another vendor."""

    vendor: OtherVendor
    name: str


def read_other_gpus(world: World) -> tuple[OtherGpu, ...]:
    """Return the GPUs of AMD and Intel that PyTorch has builds for, from the PCI bus, else from the drivers' files.

    Integrated GPUs that the table doesn't list are left out: most laptops and many servers have one, and PyTorch has
    no builds for them.
    """
    for read in (_on_bus, _of_drm, _of_kfd):
        found = tuple(read(world))
        if found:
            return found
    return ()


def _on_bus(world: World) -> Iterator[OtherGpu]:
    for bus_id in world.entries("/sys/bus/pci/devices"):
        folder = f"/sys/bus/pci/devices/{bus_id}"
        kind = (world.read(f"{folder}/class") or "").strip()
        if not kind.startswith(_DISPLAY):
            continue
        vendor, device = (_number(world.read(f"{folder}/{name}")) for name in ("vendor", "device"))
        # an integrated GPU is a VGA controller, and on AMD's chips without memory of its own
        is_discrete = not kind.startswith("0x0300") or (vendor == "8086" and bus_id != _INTEGRATED)
        yield from _known(vendor, device, is_discrete=is_discrete)


def _of_drm(world: World) -> Iterator[OtherGpu]:
    for card in world.entries("/sys/class/drm"):
        if re.fullmatch(r"card\d+", card):
            folder = f"/sys/class/drm/{card}/device"
            vendor, device = (_number(world.read(f"{folder}/{name}")) for name in ("vendor", "device"))
            yield from _known(vendor, device, is_discrete=False)


def _of_kfd(world: World) -> Iterator[OtherGpu]:
    """Read the nodes of AMD's compute driver, which containers see, too; a node of a CPU has no SIMD units."""
    for node in world.entries(_KFD):
        values = dict(re.findall(r"^(\w+) (\d+)$", world.read(f"{_KFD}/{node}/properties") or "", re.MULTILINE))
        if int(values.get("simd_count", 0)):
            vendor, device = (f"{int(values.get(name, 0)):04x}" for name in ("vendor_id", "device_id"))
            yield from _known(vendor, device, is_discrete=False)


def _number(text: str | None) -> str:
    return (text or "").strip().lower().removeprefix("0x")


def _known(vendor_id: str, device_id: str, *, is_discrete: bool) -> Iterator[OtherGpu]:
    vendor = next((vendor for vendor in other_vendors() if vendor.id == vendor_id), None)
    if vendor is not None and (device_id in vendor.devices or is_discrete):
        name = vendor.devices.get(device_id, f"GPU (PCI ID {vendor_id}:{device_id})")
        yield OtherGpu(vendor=vendor, name=f"{vendor.name} {name}")


# how clusters name GPUs of each vendor, in words without punctuation; names of NVIDIA are looked up first
_NAMES = {
    "AMD": re.compile(
        r"\b(?:amd(?!64)\w*|radeon\w*|instinct\w*|firepro\w*|rocm|mi\d{1,3}[a-z]?|gfx\d{1,4}[a-z]?"
        r"|rx ?\d{3,4} ?(?:xtx?|gre|m|s)?"
        r"|\d{4} ?xtx?|w[5-9]\d00x?|r9700|v[67][12]0|(?:vega|navi|aldebaran|arcturus) ?\d*)\b"
    ),
    "Intel": re.compile(
        r"\b(?:intel\w*|arc|arc ?(?:pro ?)?[ab]\d{2,3}[me]?|a(?:310|380|580|750|770)[me]?|b(?:50|60|570|580)|dg[12]"
        r"|bmg\w*|max ?(?:gpu ?)?1[1345][05]0\w*|pvc\w*|ponte ?vecchio|flex ?(?:gpu ?)?1[47]0\w*|xpu"
        r"|gaudi ?\d?|habana\w*|hpu)\b"
    ),
}
_GAUDI = re.compile(r"\b(?:gaudi ?\d?|habana\w*|hpu)\b")
_GAUDI_DOCS = "https://docs.habana.ai"


def named_other(name: str) -> OtherGpu | None:
    """Return the GPU that a cluster names, for example ``mi300x`` or ``amd``; None if it is no GPU of AMD or Intel."""
    if len(name) > LONGEST_NAME or "nvidia" in name.lower() or named_capability(name) is not None:
        return None
    words = re.sub(r"[^a-z0-9]+", " ", name.lower())
    for vendor in other_vendors():
        found = _NAMES[vendor.name].search(words)
        if found is None:
            continue
        known = next((each for each in vendor.devices.values() if _model(each) and _model(each) in words.split()), None)
        is_vendor = words.strip() in {vendor.name.lower(), f"{vendor.name.lower()} com gpu"}
        # PyTorch's builds for XPU don't support Gaudi
        source = msgspec.structs.replace(vendor, builds="Gaudi", index=_GAUDI_DOCS) if _GAUDI.search(words) else vendor
        return OtherGpu(vendor=source, name=f"{vendor.name} {known or ('GPU' if is_vendor else f'GPU ({name})')}")
    return None


def _model(name: str) -> str:
    """Return the word that nothing else is named: ``mi300x`` of ``Instinct MI300X``."""
    found = re.fullmatch(r"(?:Radeon )?Instinct (MI\d+\w?)", name)
    return found[1].lower() if found else ""


def other_gpus(found: Iterable[OtherGpu]) -> tuple[Condition, ...]:
    """Return the condition of a machine that has only these GPUs; nothing without any."""
    gpus = tuple(found)
    if not gpus:
        return ()
    counts = Counter(gpu.name for gpu in gpus)
    names = ", ".join(f"{count} x {name}" if count > 1 else f"an {name}" for name, count in counts.items())
    indexes = {gpu.vendor.builds: gpu.vendor.index for gpu in gpus}
    where = ", ".join(f"from the index of its builds for {builds}: {index}" for builds, index in indexes.items())
    where = where.replace(f"from the index of its builds for Gaudi: {_GAUDI_DOCS}", f"as in {_GAUDI_DOCS}")
    return (
        Condition(
            code=OTHER_GPU,
            symptom=f"this is {names}; envforge selects builds for NVIDIA and CPU",
            cause="PyTorch's builds for CUDA support only GPUs of NVIDIA",
            remedy=f"to use the GPU, install PyTorch {where}",
        ),
    )
