"""Observe the machine: its record, the driver's signals, the system, and the lockfile's requirements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.lock import needs
from envforge.lock.lockfile import Lockfile
from envforge.lock.needs import Requirements, requirements_of
from envforge.lock.plan import Plan, make_plan, read_any_lock
from envforge.machine.evidence import Evidence
from envforge.machine.nvidia_text import clean
from envforge.machine.probe import Probed, probe_all
from envforge.machine.record import machine_to_json
from envforge.machine.values import VARIABLES, Machine, driver_text
from envforge.machine.world import World
from envforge.verify.machine.facts import (
    NO_LOCK,
    DeviceFile,
    DriverFacts,
    FabricManager,
    LockNeeds,
    MachineFacts,
    Needed,
    PciGpu,
    gpu_facts,
    read_answers,
)
from envforge.verify.machine.reference_data import matrix, watched_variables
from envforge.verify.machine.system import observe_system
from envforge.verify.observe import Situation
from envforge.verify.values import Signal


def observe_lock(situation: Situation, platform: str) -> Signal[LockNeeds]:
    """Read the requirements of the situation's lockfile."""
    is_installed = situation.prefix is not None and (situation.prefix / "conda-meta").is_dir()
    return read_lock_needs(situation.lock, platform, is_installed=is_installed)


def read_lock_needs(lock: Path | None, platform: str, *, is_installed: bool = False) -> Signal[LockNeeds]:
    """Read the requirements of a lockfile. One that is invalid or can't be installed exactly is reported as such."""
    if lock is None:
        return Signal(unreadable=NO_LOCK)
    try:
        needs = _needs(lock, read_any_lock(lock, platform), platform)
    except EnvforgeError as error:
        return Signal(source=lock.name, unreadable=error.message)
    return Signal(value=replace(needs, is_installed=is_installed), source=lock.name)


def _needs(lock: Path, lockfile: Lockfile, platform: str) -> LockNeeds:
    if platform not in lockfile.platforms:
        return LockNeeds(platform=platform, platforms=lockfile.platforms, words="")
    plan = make_plan(lockfile, platform, lock, allow_builds=True)
    found = needs.read_needs(plan, matrix())
    build = found.build
    known = _known_sizes(lock)
    requirements = known or _requirements(lockfile, platform)
    return LockNeeds(
        platform=platform,
        platforms=lockfile.platforms,
        words=requirements.words,
        torch=str(build.torch) if build else _torch(plan),
        tag=str(build.tag) if build else None,
        glibc=_needed(found.glibc),
        cuda=_needed(found.cuda),
        capabilities=tuple(map(str, build.capabilities)) if build else (),
        ptx=tuple(map(str, build.ptx)) if build else (),
        misplaced=found.misplaced,
        download_bytes=requirements.download_bytes,
        files=requirements.files,
        files_sized=requirements.files_sized,
    )


def _requirements(lockfile: Lockfile, platform: str) -> Requirements:
    sizes: Mapping[str, int] = {}  # a lockfile has no sizes
    return requirements_of(lockfile, platform, matrix(), sizes)


def _known_sizes(lock: Path) -> Requirements | None:
    """Return the requirements with sizes, if the built-in catalogue has this lockfile."""
    from envforge.base.data_files import lockfiles_root  # noqa: PLC0415
    from envforge.catalogue.index import list_entries  # noqa: PLC0415 - only a lockfile needs it

    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    try:
        stored = list_entries(lockfiles_root())
    except EnvforgeError:
        return None  # without the catalogue the sizes are unknown
    return next((entry.requirements for entry in stored if entry.sha256 == digest), None)


def _needed(found: needs.Needed | None) -> Needed | None:
    return None if found is None else Needed(version=str(found.version), package=found.package)


def _torch(plan: Plan) -> str | None:
    names = ("torch", "pytorch")
    return next((a.package.version for a in (*plan.wheels, *plan.conda) if a.package.name in names), None)


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
