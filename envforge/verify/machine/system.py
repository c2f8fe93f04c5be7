"""Observe the operating system: memory, disks, limits, CPU, clock, cgroup, and kernel log.

The tightest limit of the group and its parents applies.

Without permission, the signal has a reason instead of an empty list. Line format: NVIDIA, Xid Errors,
https://docs.nvidia.com/deploy/xid-errors/, checked on 2026-11-22.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from envforge.lock.project import prefix_in
from envforge.machine.evidence import Evidence
from envforge.machine.nvidia_text import clean
from envforge.machine.world import GROUPS, World, group_folders, processor_quota
from envforge.prefix.cache import default_root
from envforge.verify.machine.facts import Bound, Cpu, Room, Share, SystemFacts, XidEvent
from envforge.verify.machine.reference_data import watched_instructions
from envforge.verify.observe import Situation
from envforge.verify.values import Signal, SignalCode

_UNLIMITED_V1 = 1 << 60  # version 1 reports no limit as the largest multiple of the page size


def memory_limit(world: World) -> Signal[Bound]:
    """Return the memory limit of the group in bytes."""
    found = [
        int(text)
        for folder in group_folders(world, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := (world.read(f"{folder}/{name}") or "").strip()).isdigit()
    ]
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
    journal = world.run((*_JOURNAL, "--grep=NVRM: Xid")) if _may_read_journal(world) else None
    if journal is not None and journal.exit_code in (0, _NO_LINE_MATCHES):
        return Signal(value=parse_xids(journal.stdout), source=" ".join(_JOURNAL[:3]))
    reason = f"no permission to read the kernel log ({refused})"
    return Signal(source=_KMSG, unreadable=reason, code="no-permission")


def _may_read_journal(world: World) -> bool:
    """Return whether the journal shows kernel messages to this user."""
    # without permission, journalctl prints nothing and reports no error, so request one line
    line = world.run((*_JOURNAL, "--lines=1"))
    return line is not None and line.exit_code == 0 and bool(line.stdout.strip())


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


T = TypeVar("T")

_SHM = "/dev/shm"  # noqa: S108 - only its free space is read


def observe_system(situation: Situation, evidence: Evidence) -> SystemFacts:
    """Return all limits and resources that affect a training run."""
    world = situation.world
    limits = world.calls.limits
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
        processors=_processors(world),
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
            return Signal(value=int(line.split()[1]) * 1024, source=source)
    return Signal(source=source, unreadable="no MemTotal", code=None if world.system == "Linux" else "not-supported")


def _processors(world: World) -> Signal[Share]:
    quota, source = processor_quota(world)
    return _try(source, lambda: Share(processors=world.calls.processors(), quota=quota))


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
