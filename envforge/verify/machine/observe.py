"""Observe the machine: the record of ``detect``, the driver's signals, the system, and the lockfile's requirements."""

from __future__ import annotations

from dataclasses import replace

from envforge.machine import Machine, driver_text
from envforge.machine.nvidia_text import clean
from envforge.machine.overrides import VARIABLES
from envforge.machine.record import machine_to_json
from envforge.probe import Probed, World, probe_all
from envforge.probe.evidence import Evidence
from envforge.verify.machine.facts import DeviceFile, DriverFacts, FabricManager, MachineFacts, PciGpu
from envforge.verify.machine.lock_needs import observe_lock
from envforge.verify.machine.signals import gpu_facts, read_answers
from envforge.verify.machine.system import observe_system
from envforge.verify.machine.tables import watched_variables
from envforge.verify.observe import Situation
from envforge.verify.values import Signal

_SWITCH_CLASS = "0x0680"  # a PCI bridge of class "other", as NVSwitch reports itself
_FABRIC_MANAGER = ("nv-fabricmanager", "--version")
_FABRIC_SERVICE = ("systemctl", "is-active", "nvidia-fabricmanager")


def observe_machine(situation: Situation) -> MachineFacts:
    """Read the machine without torch, in a second or two; NVML is queried in a child process."""
    world = _without_overrides(situation.world)
    probed = probe_all(world)
    answers = read_answers(probed.lines)
    asked = probed.evidence.libraries.nvml.gpus
    return MachineFacts(
        machine=dict(machine_to_json(probed.machine)),
        driver=_driver(world, probed),
        gpus=tuple(gpu_facts(gpu, answers) for gpu in asked),
        system=observe_system(situation, probed.evidence),
        variables=_variables(situation.world),
        lock=observe_lock(situation, probed.machine.platform),
    )


def _without_overrides(world: World) -> World:
    """Remove the user's overrides, because ``verify`` checks the real machine."""
    real = {name: value for name, value in world.environment.items() if name not in VARIABLES}
    return replace(world, environment=real)


def _variables(world: World) -> dict[str, str]:
    names = sorted({*watched_variables(), *VARIABLES})
    return {name: clean(world.environment[name]) for name in names if name in world.environment}


def _driver(world: World, probed: Probed) -> DriverFacts:
    evidence = probed.evidence
    nvml, libcuda = evidence.libraries.nvml, evidence.libraries.libcuda
    switches = _switches(world)
    return DriverFacts(
        kernel_module=_kernel_module(evidence),
        nvml=Signal(value=nvml.file, source="NVML nvmlInit")
        if nvml.error is None
        else Signal(source="NVML nvmlInit", unreadable=nvml.error.text),
        nvml_code=nvml.error.code if nvml.error else None,
        libcuda=Signal(value=libcuda.file or "libcuda", source="dlopen libcuda.so.1")
        if libcuda.error is None
        else Signal(source="dlopen libcuda.so.1", unreadable=libcuda.error.text),
        libcuda_is_compat=libcuda.is_compat,
        is_jetson=evidence.system.jetson is not None,
        has_nouveau=evidence.system.has_nouveau,
        pci=tuple(PciGpu(bus_id=p.bus_id, device_id=p.device_id, driver=p.driver) for p in evidence.system.pci),
        nvswitches=switches,
        device_files=_device_files(world),
        fabric_manager=_fabric_manager(world, probed.machine, switches),
    )


def _kernel_module(evidence: Evidence) -> Signal[str]:
    module = evidence.system.kernel_module
    if module is None:
        return Signal(source="/sys/module/nvidia", unreadable="the kernel module nvidia is not loaded")
    if module.version is None:
        return Signal(source=module.source, unreadable="unknown format of the version")
    return Signal(value=driver_text(module.version), source=module.source)


def _switches(world: World) -> int:
    """Return the number of NVSwitch devices on the PCI bus, as in HGX and DGX machines."""
    found = 0
    for bus_id in world.entries("/sys/bus/pci/devices"):
        folder = f"/sys/bus/pci/devices/{bus_id}"
        if (world.read(f"{folder}/vendor") or "").strip() == "0x10de":
            found += (world.read(f"{folder}/class") or "").startswith(_SWITCH_CLASS)
    return found


def _device_files(world: World) -> tuple[DeviceFile, ...]:
    names = [name for name in world.entries("/dev") if name in ("nvidiactl", "nvidia-uvm") or _is_gpu_file(name)]
    return tuple(
        DeviceFile(path=f"/dev/{name}", usable=world.calls.may_use(world.root / "dev" / name)) for name in names
    )


def _is_gpu_file(name: str) -> bool:
    return name.startswith("nvidia") and name.removeprefix("nvidia").isdigit()


def _fabric_manager(world: World, machine: Machine, switches: int) -> Signal[FabricManager]:
    """Query the service only if there is NVSwitch; other machines don't need it."""
    source = " ".join(_FABRIC_MANAGER)
    if not switches:
        return Signal(source="/sys/bus/pci/devices", unreadable="no NVSwitch on the PCI bus")
    if machine.container is not None:
        return Signal(source=source, unreadable="the service runs on the host, outside this container")
    version, service = world.run(_FABRIC_MANAGER), world.run(_FABRIC_SERVICE)
    if version is None and service is None:
        return Signal(source=source, unreadable="neither nv-fabricmanager nor systemctl was found")
    words = clean(version.stdout).rpartition(":")[2].strip() if version and version.exit_code == 0 else None
    return Signal(
        value=FabricManager(version=words or None, active=service.stdout.strip() == "active" if service else None),
        source=f"{source}; {' '.join(_FABRIC_SERVICE)}",
    )
