"""Recognize GPUs of AMD and Intel, for which envforge selects no builds."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from envforge.machine.gpu_tables import LONGEST_NAME, OtherVendor, named_capability, other_vendors
from envforge.machine.values import OTHER_GPU, Condition
from envforge.machine.world import World

_DISPLAY = ("0x03", "0x12")  # PCI classes: display controllers, and processing accelerators such as the Instinct MI300X
_INTEGRATED = "0000:00:02.0"  # where Intel's integrated GPU is
_KFD = "/sys/class/kfd/kfd/topology/nodes"


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherGpu:
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
        source = dataclasses.replace(vendor, builds="Gaudi", index=_GAUDI_DOCS) if _GAUDI.search(words) else vendor
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
