"""Read the memory limit and CPU quota of this process's control group, version 2 or 1, from ``/sys/fs/cgroup``.

The tightest limit of the group and its parents applies.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from envforge.probe import World
from envforge.verify.machine.facts import Bound
from envforge.verify.values import Signal

_ROOT = "/sys/fs/cgroup"
_UNLIMITED_V1 = 1 << 60  # version 1 reports no limit as the largest multiple of the page size


def memory_limit(world: World) -> Signal[Bound]:
    """Return the memory limit of the group in bytes."""
    found = [
        int(text)
        for folder in _folders(world, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := (world.read(f"{folder}/{name}") or "").strip()).isdigit()
    ]
    if not found and not _is_there(world):
        return Signal(source=_ROOT, unreadable="control groups are not readable")
    tight = [limit for limit in found if limit < _UNLIMITED_V1]
    return Signal(value=Bound(limit=min(tight, default=None)), source=f"{_ROOT} memory.max")


def processor_quota(world: World) -> tuple[float | None, str]:
    """Return the average number of CPUs that the group may use, and the source of that value."""
    found = []
    for folder in _folders(world, "cpu"):
        quota, _, period = (world.read(f"{folder}/cpu.max") or "").strip().partition(" ")
        if not quota:
            quota = (world.read(f"{folder}/cpu.cfs_quota_us") or "").strip()
            period = (world.read(f"{folder}/cpu.cfs_period_us") or "").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None), f"sched_getaffinity; {_ROOT} cpu.max"


def _is_there(world: World) -> bool:
    return world.exists(f"{_ROOT}/cgroup.controllers") or world.exists(f"{_ROOT}/memory")


def _folders(world: World, controller: str) -> tuple[str, ...]:
    """Return the directories of the group and its parents, in both versions."""
    # in a container, the mounted root is the group itself
    folders = [_ROOT, f"{_ROOT}/{controller}"]
    for line in (world.read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = f"{_ROOT}/{controller}" if controllers else _ROOT
        group = PurePosixPath(path)
        # a path with `..` is outside this cgroup namespace, so it is not mounted
        if ".." not in group.parts:
            folders += [top + str(folder) for folder in (group, *group.parents) if str(folder) != "/"]
    return tuple(dict.fromkeys(folders))
