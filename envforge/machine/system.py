"""Read what the operating system reports without NVIDIA libraries.

These are the platform, container, WSL, Jetson, kernel module, and PCI bus, each with its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.nvidia_text import (
    TextFormatError,
    clean,
    parse_proc_version,
    parse_version,
    pci_gpu,
    tegra_capability,
)
from envforge.machine.values import Gpu
from envforge.machine.world import World

NVIDIA_VENDOR = "0x10de"
_SUBDIRS = {
    ("Linux", "x86_64"): "linux-64",
    ("Linux", "amd64"): "linux-64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Linux", "arm64"): "linux-aarch64",
    ("Darwin", "arm64"): "osx-arm64",
    ("Darwin", "x86_64"): "osx-64",
    ("Windows", "amd64"): "win-64",
    ("Windows", "x86_64"): "win-64",
    ("Windows", "arm64"): "win-arm64",
}
_CGROUP = re.compile(r"docker|kubepods|containerd|libpod|lxc|garden|actions_job")
_MARKERS = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"), ("/.singularity.d", "apptainer"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A value and its source."""

    value: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelModule:
    """The loaded NVIDIA kernel module; the version is ``None`` if the file has an unknown format."""

    version: Version | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PciDevice:
    """One NVIDIA GPU on the PCI bus; ``driver`` is the kernel driver bound to it, ``None`` without one."""

    bus_id: str
    device_id: str
    driver: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Jetson:
    """A Jetson board: its model and the compute capability of its built-in GPU."""

    model: str
    compute_capability: ComputeCapability | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemReport:
    """What the operating system reports about the machine."""

    platform: str
    glibc: Version | None
    container: Fact | None
    wsl: Fact | None
    jetson: Jetson | None
    kernel_module: KernelModule | None
    has_nouveau: bool
    pci: tuple[PciDevice, ...]
    has_device_nodes: bool


def read_system(world: World) -> SystemReport:
    """Read what the operating system reports about the machine."""
    return SystemReport(
        platform=conda_subdir(world.system, world.architecture),
        glibc=parse_version(world.libc.removeprefix("glibc ")) if world.libc.startswith("glibc") else None,
        container=_container(world),
        wsl=_wsl(world),
        jetson=_jetson(world),
        kernel_module=_kernel_module(world),
        has_nouveau=world.exists("/sys/module/nouveau"),
        pci=_pci(world),
        has_device_nodes=world.exists("/dev/nvidiactl") or world.exists("/dev/dxg") or world.exists("/dev/nvhost-gpu"),
    )


def conda_subdir(system: str, architecture: str) -> str:
    """Return conda's name of the platform, for example ``linux-64``."""
    known = _SUBDIRS.get((system, architecture.lower()))
    return known or f"{system.lower()}-{architecture.lower()}"


def _container(world: World) -> Fact | None:
    for variable, kind in (("KUBERNETES_SERVICE_HOST", "kubernetes"), ("APPTAINER_NAME", "apptainer")):
        if world.environment.get(variable):
            return Fact(value=kind, source=f"variable {variable}")
    for path, kind in _MARKERS:
        if world.exists(path):
            return Fact(value=kind, source=path)
    if stated := world.environment.get("container"):
        return Fact(value=clean(stated), source="variable container")
    match = _CGROUP.search(world.read("/proc/1/cgroup") or "")
    return Fact(value=match[0], source="/proc/1/cgroup") if match else None


def _wsl(world: World) -> Fact | None:
    text = world.read("/proc/sys/kernel/osrelease") or ""
    return Fact(value=clean(text), source="/proc/sys/kernel/osrelease") if "microsoft" in text.lower() else None


def _jetson(world: World) -> Jetson | None:
    compatible = world.read("/proc/device-tree/compatible") or ""
    if "nvidia,tegra" not in compatible and not world.exists("/etc/nv_tegra_release"):
        return None
    model = clean((world.read("/proc/device-tree/model") or "").replace("\n", " "))
    return Jetson(
        model=model or "NVIDIA Jetson",
        compute_capability=tegra_capability(compatible),
        source="/proc/device-tree" if compatible else "/etc/nv_tegra_release",
    )


def _kernel_module(world: World) -> KernelModule | None:
    """Read the loaded kernel module, which containers see too, because these files are the host's."""
    if text := world.read("/sys/module/nvidia/version"):
        return KernelModule(version=parse_version(text), source="/sys/module/nvidia/version")
    proc = world.read("/proc/driver/nvidia/version")
    if proc is None:
        return None
    try:
        version = parse_proc_version(proc)
    except TextFormatError:
        version = None
    return KernelModule(version=version, source="/proc/driver/nvidia/version")


def _pci(world: World) -> tuple[PciDevice, ...]:
    """List NVIDIA's display and 3D controllers (PCI class 0x03)."""
    found = []
    for bus_id in world.entries("/sys/bus/pci/devices"):
        folder = f"/sys/bus/pci/devices/{bus_id}"
        if (world.read(f"{folder}/vendor") or "").strip() != NVIDIA_VENDOR:
            continue
        if (world.read(f"{folder}/class") or "").startswith("0x03"):
            device_id = (world.read(f"{folder}/device") or "").strip()
            found.append(PciDevice(bus_id=bus_id, device_id=device_id, driver=world.link_name(f"{folder}/driver")))
    return tuple(found)


def gpus_from_pci(devices: tuple[PciDevice, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs on the bus, in the order in which the driver numbers them."""
    return tuple(_gpu(index, device) for index, device in enumerate(devices))


def _gpu(index: int, device: PciDevice) -> Gpu:
    known = pci_gpu(device.device_id)
    name = f"NVIDIA {known.name or known.chip}" if known else f"NVIDIA device {device.device_id}"
    return Gpu(
        index=index,
        name=name,
        compute_capability=known.compute_capability if known else None,
        pci_bus_id=device.bus_id,
    )
