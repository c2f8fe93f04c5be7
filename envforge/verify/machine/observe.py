"""Observe the machine: its record, the driver's signals, the system, and the lockfile's requirements."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.lock import needs
from envforge.lock.lockfile import Lockfile, Requirements
from envforge.lock.needs import requirements_of
from envforge.lock.plan import Plan, make_plan, read_any_lock
from envforge.lock.project import is_prefix
from envforge.machine.evidence import Evidence, LibcudaReport, NvmlCode
from envforge.machine.nvidia_text import clean
from envforge.machine.probe import Probed, probe_all
from envforge.machine.values import VARIABLES, Machine, driver_text
from envforge.machine.world import World
from envforge.verify.machine.facts import (
    NO_LOCK,
    DeviceFile,
    DriverFacts,
    FabricManager,
    LockNeeds,
    MachineFacts,
    gpu_facts,
    read_answers,
)
from envforge.verify.machine.reference_data import matrix, watched_variables
from envforge.verify.machine.system import observe_system
from envforge.verify.observe import Situation
from envforge.verify.values import Signal, SignalCode


def read_lock_needs(lock: Path | None, platform: str, *, is_installed: bool = False) -> Signal[LockNeeds]:
    """Read the requirements of a lockfile. One that is invalid or can't be installed exactly is reported as such."""
    if lock is None:
        return Signal(unreadable=NO_LOCK, code="not-found")
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
    # a lockfile has no sizes
    requirements = _known_sizes(lock) or requirements_of(lockfile, platform, matrix(), {})
    return LockNeeds(
        platform=platform,
        platforms=lockfile.platforms,
        words=requirements.words,
        torch=str(build.torch) if build else _torch(plan),
        tag=build.tag if build else None,
        glibc=found.glibc,
        cuda=found.cuda,
        capabilities=build.capabilities if build else (),
        ptx=build.ptx if build else (),
        misplaced=found.misplaced,
        download_bytes=requirements.download_bytes,
        files=requirements.files,
        files_sized=requirements.files_sized,
    )


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
    is_installed = situation.prefix is not None and is_prefix(situation.prefix)
    return MachineFacts(
        machine=probed.machine,
        driver=_driver(world, probed),
        gpus=tuple(gpu_facts(gpu, answers) for gpu in asked),
        system=observe_system(situation, probed.evidence),
        variables=_variables(situation.world),
        lock=read_lock_needs(situation.lock, probed.machine.platform, is_installed=is_installed),
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
        libcuda=_libcuda(libcuda),
        libcuda_is_compat=libcuda.is_compat,
        is_jetson=evidence.system.jetson is not None,
        has_nouveau=evidence.system.has_nouveau,
        pci=evidence.system.pci,
        nvswitches=switches,
        device_files=_device_files(world),
        fabric_manager=_fabric_manager(world, probed.machine, switches),
    )


def _libcuda(libcuda: LibcudaReport) -> Signal[str]:
    source, error = "dlopen libcuda.so.1", libcuda.error
    if error is None:
        return Signal(value=libcuda.file or "libcuda", source=source)
    # the loader has no error codes: without one, it could not load the file
    codes: dict[int | None, SignalCode] = {None: "not-found", NvmlCode.HUNG: "no-answer", NvmlCode.CRASHED: "no-answer"}
    return Signal(source=source, unreadable=error.text, code=codes.get(error.code))


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
    names = [name for name in world.entries("/dev") if re.fullmatch(r"nvidia(ctl|-uvm|\d+)", name)]
    return tuple(
        DeviceFile(path=f"/dev/{name}", usable=world.calls.may_use(world.root / "dev" / name)) for name in names
    )


def _fabric_manager(world: World, machine: Machine, switches: int) -> Signal[FabricManager]:
    """Query the service only if there is NVSwitch; other machines don't need it."""
    source = " ".join(_FABRIC_MANAGER)
    if not switches:
        return Signal(source="/sys/bus/pci/devices", unreadable="no NVSwitch on the PCI bus")
    if machine.container is not None:
        reason = "the service runs on the host, outside this container"
        return Signal(source=source, unreadable=reason, code="no-permission")
    version, service = world.run(_FABRIC_MANAGER), world.run(_FABRIC_SERVICE)
    if version is None and service is None:
        return Signal(source=source, unreadable="neither nv-fabricmanager nor systemctl was found")
    words = clean(version.stdout).rpartition(":")[2].strip() if version and version.exit_code == 0 else None
    return Signal(
        value=FabricManager(version=words or None, active=service.stdout.strip() == "active" if service else None),
        source=f"{source}; {' '.join(_FABRIC_SERVICE)}",
    )
