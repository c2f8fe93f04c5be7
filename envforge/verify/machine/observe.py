"""Observe the machine: its record, the driver's signals, the operating system, and the lockfile's requirements.

Without permission to read the kernel log, its signal has a reason instead of an empty list.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from envforge.errors import EnvforgeError
from envforge.lock import needs
from envforge.lock.lockfile import Lockfile, Requirements
from envforge.lock.needs import requirements_of
from envforge.lock.plan import make_plan, read_any_lock
from envforge.lock.project import is_prefix, prefix_in
from envforge.machine.evidence import NVIDIA_VENDOR, Evidence, LibcudaReport, NvmlCode
from envforge.machine.probe import Probed, probe_all
from envforge.machine.values import VARIABLES, Machine, clean, driver_text
from envforge.machine.world import GROUPS, World, group_folders, processor_quota
from envforge.prefix.cache import default_root
from envforge.verify.machine.facts import (
    NO_LOCK,
    Bound,
    Cpu,
    DeviceFile,
    DriverFacts,
    FabricManager,
    LockNeeds,
    MachineFacts,
    Room,
    Share,
    SystemFacts,
    XidEvent,
    gpu_facts,
    read_answers,
)
from envforge.verify.machine.reference_data import matrix, watched_instructions, watched_variables
from envforge.verify.observe import Situation
from envforge.verify.values import Signal, SignalCode

T = TypeVar("T")


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
    names = ("torch", "pytorch")
    torch = (each.package.version for each in (*plan.wheels, *plan.conda) if each.package.name in names)
    # a lockfile has no sizes
    requirements = _known_sizes(lock) or requirements_of(lockfile, platform, matrix(), {})
    return LockNeeds(
        platform=platform,
        platforms=lockfile.platforms,
        words=requirements.words,
        torch=str(build.torch) if build else next(torch, None),
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


_SWITCH_CLASS = "0x0680"  # a PCI bridge of class "other", as NVSwitch reports itself
_FABRIC_MANAGER = ("nv-fabricmanager", "--version")
_FABRIC_SERVICE = ("systemctl", "is-active", "nvidia-fabricmanager")


def observe_machine(situation: Situation) -> MachineFacts:
    """Read the machine without torch, in a second or two; NVML is queried in a child process."""
    # without the user's overrides, because the real machine is checked
    given = situation.world.environment
    real = {name: value for name, value in given.items() if name not in VARIABLES}
    world = replace(situation.world, environment=real)
    probed = probe_all(world)
    answers = read_answers(probed.lines)
    is_installed = situation.prefix is not None and is_prefix(situation.prefix)
    return MachineFacts(
        machine=probed.machine,
        driver=_driver(world, probed),
        gpus=tuple(gpu_facts(gpu, answers) for gpu in probed.evidence.libraries.nvml.gpus),
        system=observe_system(situation, probed.evidence),
        # of the original world: `overrides-set` reports the overrides
        variables={name: clean(given[name]) for name in sorted({*watched_variables(), *VARIABLES}) if name in given},
        lock=read_lock_needs(situation.lock, probed.machine.platform, is_installed=is_installed),
    )


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
        device_files=tuple(
            DeviceFile(path=f"/dev/{name}", usable=world.calls.may_use(world.root / "dev" / name))
            for name in world.entries("/dev")
            if re.fullmatch(r"nvidia(ctl|-uvm|\d+)", name)
        ),
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
    folders = [f"/sys/bus/pci/devices/{bus_id}" for bus_id in world.entries("/sys/bus/pci/devices")]
    return sum(
        (world.read(f"{folder}/vendor") or "").strip() == NVIDIA_VENDOR
        and (world.read(f"{folder}/class") or "").startswith(_SWITCH_CLASS)
        for folder in folders
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


_UNLIMITED_V1 = 1 << 60  # version 1 reports no limit as the largest multiple of the page size


def memory_limit(world: World) -> Signal[Bound]:
    """Return the memory limit in bytes: the tightest one of the control group and its parents."""
    found = [
        int(text)
        for folder in group_folders(world, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := (world.read(f"{folder}/{name}") or "").strip()).isdigit()
    ]
    # the root group of version 2 has no `memory.max`, so this doesn't mean that it is unreadable
    if not found and not any(world.exists(f"{GROUPS}/{name}") for name in ("cgroup.controllers", "memory")):
        return Signal(source=GROUPS, unreadable="control groups are not readable")
    tight = [limit for limit in found if limit < _UNLIMITED_V1]
    return Signal(value=Bound(limit=min(tight, default=None)), source=f"{GROUPS} memory.max")


_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)")
_KMSG = "/dev/kmsg"
_JOURNAL = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=cat")
_NO_LINE_MATCHES = 1  # exit code of `journalctl --grep` in that case
_LONGEST = 200


def observe_xids(world: World) -> Signal[tuple[XidEvent, ...]]:
    """Read the kernel's ring buffer, or the slower journal if the buffer isn't readable."""
    try:
        return Signal(value=parse_xids(world.calls.kernel_records(world.root / _KMSG.lstrip("/"))), source=_KMSG)
    except OSError as error:
        refused = error.strerror or str(error)
    # without permission, journalctl prints nothing and reports no error, so request one line
    line = world.run((*_JOURNAL, "--lines=1"))
    may_read = line is not None and line.exit_code == 0 and bool(line.stdout.strip())
    journal = world.run((*_JOURNAL, "--grep=NVRM: Xid")) if may_read else None
    if journal is not None and journal.exit_code in (0, _NO_LINE_MATCHES):
        return Signal(value=parse_xids(journal.stdout), source=" ".join(_JOURNAL[:3]))
    reason = f"no permission to read the kernel log ({refused})"
    return Signal(source=_KMSG, unreadable=reason, code="no-permission")


def parse_xids(text: str) -> tuple[XidEvent, ...]:
    """Return the events in a log by GPU and code, in the order of their first lines."""
    lines: dict[tuple[str, int], list[str]] = {}
    for line in text.splitlines():
        match = _XID.search(line)
        if match is not None:
            lines.setdefault((match[1].lower(), int(match[2])), []).append(clean(line[match.start() :])[:_LONGEST])
    return tuple(
        XidEvent(code=code, bus_id=bus_id, count=len(found), line=found[-1]) for (bus_id, code), found in lines.items()
    )


_SHM = "/dev/shm"  # noqa: S108 - only its free space is read


def observe_system(situation: Situation, evidence: Evidence) -> SystemFacts:
    """Return all limits and resources that affect a training run."""
    world = situation.world
    limits = world.calls.limits
    quota, source = processor_quota(world)
    return SystemFacts(
        container=evidence.system.container.value if evidence.system.container else None,
        is_wsl=evidence.system.wsl is not None,
        scheduler=_scheduler(world),
        shared_memory=_room(world, "shared memory", Path(_SHM), f"statvfs {_SHM}")
        if world.system == "Linux"
        else Signal(source=_SHM, unreadable=f"only Linux has {_SHM}", code="not-supported"),
        rooms=tuple(_room(world, role, path, "statvfs") for role, path in _places(situation)),
        memory_bytes=_memory(world),
        memory_limit=memory_limit(world),
        processors=_try(source, lambda: Share(processors=world.calls.processors(), quota=quota)),
        open_files=_try("getrlimit RLIMIT_NOFILE", lambda: Bound(limit=limits("RLIMIT_NOFILE").soft)),
        open_files_hard=_try("getrlimit RLIMIT_NOFILE", lambda: Bound(limit=limits("RLIMIT_NOFILE").hard)),
        locked_memory=_try("getrlimit RLIMIT_MEMLOCK", lambda: Bound(limit=limits("RLIMIT_MEMLOCK").soft)),
        cpu=_cpu(world),
        clock_kept=_try("adjtimex", world.calls.is_clock_kept),
        now=Signal(value=situation.now, source="system clock"),
        newest_file=_newest(situation),
        xids=observe_xids(world),
    )


def _try(source: str, read: Callable[[], T]) -> Signal[T]:
    try:
        return Signal(value=read(), source=source)
    except (OSError, AttributeError) as error:  # AttributeError: this system lacks the C function or limit
        code: SignalCode | None = None if getattr(error, "errno", None) else "not-supported"  # as `World` raises it
        return Signal(source=source, unreadable=getattr(error, "strerror", None) or str(error), code=code)


def _places(situation: Situation) -> tuple[tuple[str, Path], ...]:
    prefix = situation.prefix or prefix_in(situation.project or situation.folder)
    temporary = situation.world.environment.get("TMPDIR") or tempfile.gettempdir()
    return (("environment", prefix), ("package cache", default_root()), ("temporary files", Path(temporary)))


def _room(world: World, role: str, path: Path, source: str) -> Signal[Room]:
    def read() -> Room:
        # before the first install, the directory is missing
        folder = next((each for each in (path, *path.parents) if each.exists()), path)
        space = world.calls.space(folder)
        return Room(
            role=role, path=str(path), folder=str(folder), free_bytes=space.free_bytes, free_inodes=space.free_inodes
        )

    return _try(source, read)


def _memory(world: World) -> Signal[int]:
    source = "/proc/meminfo"
    for line in (world.read(source) or "").splitlines():
        if line.startswith("MemTotal:"):
            # in KiB, although the kernel writes kB
            return Signal(value=int(line.split()[1]) * 1024, source=source)
    return Signal(source=source, unreadable="no MemTotal", code=None if world.system == "Linux" else "not-supported")


def _cpu(world: World) -> Signal[Cpu]:
    source = "/proc/cpuinfo"
    found: dict[str, str] = {}
    for line in (world.read(source) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    flags = found.get("flags") or found.get("Features")  # `Features` on aarch64
    if flags is None:
        return Signal(source=source, unreadable="no list of instruction sets")
    known = watched_instructions()
    kept = tuple(sorted(flag for flag in set(flags.split()) if flag in known))
    return Signal(value=Cpu(model=clean(found.get("model name", "")), flags=kept), source=source)


def _newest(situation: Situation) -> Signal[datetime]:
    """Return the modification time of the newest project file; a correct clock is never behind it."""
    folder = situation.project or situation.folder
    places = [situation.lock, folder / "environment.yml", folder / "envforge.toml"]
    times = [path.stat().st_mtime for path in places if path is not None and path.is_file()]
    if not times:
        return Signal(source="files of the project", unreadable="no project")
    return Signal(value=datetime.fromtimestamp(max(times), timezone.utc), source="files of the project")


def _scheduler(world: World) -> str | None:
    """Return the batch system of this machine, because its login nodes have no GPU."""
    if world.environment.get("SLURM_JOB_ID"):
        return "slurm job"
    return "slurm" if world.environment.get("SLURM_CONF") or world.exists("/etc/slurm") else None
