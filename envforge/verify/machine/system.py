"""Observe the operating system: memory, disks, limits, CPUs, clock, and kernel log."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from envforge.daily.prefix import IN_PROJECT
from envforge.install.store import default_root
from envforge.machine.nvidia_text import clean
from envforge.probe import World
from envforge.probe.evidence import Evidence
from envforge.verify.machine import cgroup
from envforge.verify.machine.facts import Bound, Cpu, Room, Share, SystemFacts
from envforge.verify.machine.kernel_log import observe_xids
from envforge.verify.machine.tables import watched_instructions
from envforge.verify.observe import Situation
from envforge.verify.values import Signal

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
        shared_memory=_room(world, "shared memory", Path(_SHM), f"statvfs {_SHM}"),
        rooms=tuple(_room(world, role, path, "statvfs") for role, path in _places(situation)),
        memory_bytes=_memory(world),
        memory_limit=cgroup.memory_limit(world),
        processors=_processors(world),
        open_files=_try("getrlimit RLIMIT_NOFILE", lambda: Bound(limit=limits("RLIMIT_NOFILE").soft)),
        open_files_hard=_try("getrlimit RLIMIT_NOFILE", lambda: Bound(limit=limits("RLIMIT_NOFILE").hard)),
        locked_memory=_try("getrlimit RLIMIT_MEMLOCK", lambda: Bound(limit=limits("RLIMIT_MEMLOCK").soft)),
        cpu=_cpu(world),
        clock_kept=_try("adjtimex", world.calls.is_clock_kept),
        now=Signal(value=situation.now.isoformat(), source="system clock"),
        newest_file=_newest(situation),
        xids=observe_xids(world),
    )


def _try(source: str, read: Callable[[], T]) -> Signal[T]:
    try:
        return Signal(value=read(), source=source)
    except (OSError, AttributeError) as error:  # AttributeError: this system lacks the C function or limit
        return Signal(source=source, unreadable=getattr(error, "strerror", None) or str(error))


def _places(situation: Situation) -> tuple[tuple[str, Path], ...]:
    prefix = situation.prefix or (situation.project or situation.folder) / IN_PROJECT
    temporary = situation.world.environment.get("TMPDIR") or tempfile.gettempdir()
    return (("environment", prefix), ("package cache", default_root()), ("temporary files", Path(temporary)))


def _room(world: World, role: str, path: Path, source: str) -> Signal[Room]:
    def read() -> Room:
        folder = _existing(path)
        space = world.calls.space(folder)
        return Room(
            role=role, path=str(path), folder=str(folder), free_bytes=space.free_bytes, free_inodes=space.free_inodes
        )

    return _try(source, read)


def _existing(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def _memory(world: World) -> Signal[int]:
    source = "/proc/meminfo"
    for line in (world.read(source) or "").splitlines():
        if line.startswith("MemTotal:"):
            return Signal(value=int(line.split()[1]) * 1024, source=source)
    return Signal(source=source, unreadable="no MemTotal")


def _processors(world: World) -> Signal[Share]:
    quota, source = cgroup.processor_quota(world)
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


def _newest(situation: Situation) -> Signal[str]:
    """Return the modification time of the newest project file; a correct clock is never behind it."""
    folder = situation.project or situation.folder
    places = [situation.lock, folder / "environment.yml", folder / "envforge.toml"]
    times = [path.stat().st_mtime for path in places if path is not None and path.is_file()]
    if not times:
        return Signal(source="files of the project", unreadable="no project")
    return Signal(value=datetime.fromtimestamp(max(times), timezone.utc).isoformat(), source="files of the project")


def _scheduler(world: World) -> str | None:
    """Return the batch system of this machine, because its login nodes have no GPU."""
    if world.environment.get("SLURM_JOB_ID"):
        return "slurm job"
    return "slurm" if world.environment.get("SLURM_CONF") or world.exists("/etc/slurm") else None
