"""Test limits of control groups, version 2 and 1: the tightest of the group and its parents applies."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.machine.world import Calls, processor_quota, usable_cpus
from envforge.verify.machine.facts import Bound
from envforge.verify.machine.observe import memory_limit
from tests.verify.machine.scenes import Scene

GIB = 1 << 30
SECOND = {
    "/proc/self/cgroup": "0::/system.slice/job.service\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "/sys/fs/cgroup/system.slice/memory.max": f"{4 * GIB}\n",
    "/sys/fs/cgroup/system.slice/job.service/memory.max": f"{8 * GIB}\n",
    "/sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/system.slice/job.service/cpu.max": "150000 100000\n",
}
FIRST = {
    "/proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{2 * GIB}\n",
    "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "200000\n",
    "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
}
UNLIMITED = {
    "/proc/self/cgroup": "0::/\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "/sys/fs/cgroup/memory.max": "max\n",
}


@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [(SECOND, 4 * GIB, 1.5), (FIRST, 2 * GIB, 2.0), (UNLIMITED, None, None)],
    ids=["version 2", "version 1", "unlimited"],
)
def test_the_tightest_limit_counts(
    files: dict[str, str], memory: int | None, quota: float | None, tmp_path: Path
) -> None:
    world = Scene(files=files).world(tmp_path, tmp_path)
    assert memory_limit(world).value == Bound(limit=memory)
    assert processor_quota(world)[0] == quota


@pytest.mark.parametrize(
    ("processors", "quota", "expected"),
    [(64, "150000 100000", 1), (2, "800000 100000", 2), (64, "max 100000", 64), (64, "50000 100000", 1)],
)
def test_usable_cpus_obey_affinity_and_quota(processors: int, quota: str, expected: int, tmp_path: Path) -> None:
    world = Scene(files={**UNLIMITED, "/sys/fs/cgroup/cpu.max": quota}).world(tmp_path, tmp_path)
    assert usable_cpus(replace(world, calls=Calls(processors=lambda: processors))) == expected


def test_a_system_without_control_groups_says_so(tmp_path: Path) -> None:
    found = memory_limit(Scene().world(tmp_path, tmp_path))
    assert (found.value, found.unreadable) == (None, "control groups are not readable")


def test_a_group_outside_of_what_is_shown_is_not_followed(tmp_path: Path) -> None:
    files = {"/proc/self/cgroup": "0::/../other\n", "/sys/fs/other/memory.max": "1\n", **UNLIMITED}
    files["/proc/self/cgroup"] = "0::/../other\n"
    assert memory_limit(Scene(files=files).world(tmp_path, tmp_path)).value == Bound(limit=None)
