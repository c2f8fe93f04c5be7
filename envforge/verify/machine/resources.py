"""Check memory, disks, limits, the clock, and environment variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial

from envforge.base.redact import quoted
from envforge.machine.values import VARIABLES as OVERRIDES
from envforge.verify.judging import check, counted, failed, info, passed, skipped, unread, warned
from envforge.verify.machine.case import MACHINE, Case, SystemCase, gib, of_system, sources
from envforge.verify.machine.facts import Bound, LockNeeds, Room, Share
from envforge.verify.machine.reference_data import hurting_variables, limit, share
from envforge.verify.values import Judgement, Signal, Verdict

_SHM = "/dev/shm"  # noqa: S108 - only its name and free space are used
_LOOK_AT_CLOCK = "date -u; timedatectl"
_ENVIRONMENT = "environment"
_CUDA_FOLDER = re.compile(r"cuda|cudnn|nccl|tensorrt", re.IGNORECASE)

_system = partial(check, group="system")
_limits = partial(_system, severity=Verdict.WARN, row=44)
_variables = partial(check, group="variables", of=MACHINE)


@_system(
    "shm-small", f"Space in {_SHM}", of=of_system(lambda system: system.shared_memory), severity=Verdict.WARN, row=31
)
def _shared_memory(system: SystemCase[Room]) -> Judgement:
    """DataLoader workers pass batches through it. Docker provides 64 MiB by default."""
    words, wanted = f"{_SHM} has {gib(system.value.free_bytes)} free", gib(limit("shared_memory_bytes"))
    if system.value.free_bytes >= limit("shared_memory_bytes"):
        return passed(words)
    in_container = system.case.facts.system.container is not None
    docker = "; with Docker, pass --shm-size=8g or --ipc=host" if in_container else ""
    words += ", so DataLoader workers crash with `Bus error`"
    return warned(words, f"{wanted} or more{docker}", command="df -h /dev/shm")


@_system("disk-full", "Disk space", of=MACHINE, row=41)
def _disks(case: Case) -> Iterator[Judgement]:
    """An installation that fails with `No space left on device` wastes its download."""
    for signal in case.facts.system.rooms:
        yield unread(signal) if signal.value is None else _disk(case, signal.value, signal)


def _disk(case: Case, room: Room, signal: Signal[Room]) -> Judgement:
    wanted, reason = _wanted(case.needs, room.role)
    words = f"{gib(room.free_bytes)} free for {room.role} ({room.path})"
    if room.free_bytes >= wanted:
        return passed(f"{words}; {gib(wanted)} required", source=signal.source, subject=room.role)
    judgement = warned if room.role == "temporary files" else failed
    command = f"df -h {quoted(room.folder)}"
    return judgement(words, f"{gib(wanted)}: {reason}", signal.source, subject=room.role, command=command)


def _wanted(needs: LockNeeds | None, role: str) -> tuple[int, str]:
    """Return the required space in bytes, and the reason."""
    if role == "temporary files":
        return limit("temporary_bytes"), "for downloads and builds"
    if needs is None or needs.is_installed:
        return limit("disk_installed_bytes"), "for checkpoints of a run"
    if needs.files and needs.files_sized >= needs.files * share("sizes_known_share"):
        factor = limit("disk_factor")
        return needs.download_bytes * factor, f"{factor} times the {gib(needs.download_bytes)} of the locked files"
    kind = "disk_gpu_bytes" if needs.cuda is not None else "disk_cpu_bytes"
    return limit(kind), "an estimate, because the lockfile has no sizes"


@_system("inodes-full", "Free inodes", of=MACHINE, row=41)
def _inodes(case: Case) -> Iterator[Judgement]:
    """A disk can run out of inodes although it has free space."""
    for signal in case.facts.system.rooms:
        room = signal.value
        if room is None:
            yield unread(signal)
        elif room.free_inodes is None:
            yield skipped("this file system has no inode limit", signal.source, subject=room.role)
        elif room.free_inodes < limit("inodes") and case.needs is not None and not case.needs.is_installed:
            words, command = f"{room.free_inodes} free inodes ({room.path})", f"df -i {quoted(room.folder)}"
            wanted = f"{limit('inodes')} or more"
            yield failed(words, wanted, signal.source, subject=room.role, command=command)
        else:
            yield passed(f"{room.free_inodes} free inodes", source=signal.source, subject=room.role)


@_system("clock-wrong", "System clock", of=of_system(lambda system: system.now), severity=Verdict.WARN, row=42)
def _clock(system: SystemCase[datetime]) -> Judgement:
    """With a wrong clock, downloads fail with `certificate is not yet valid`."""
    kept, newest = system.case.facts.system.clock_kept, system.case.facts.system.newest_file
    words = f"the clock shows {_minute(system.value)}"
    # a file can't be newer than the present, so this needs no network
    if newest.value is not None and (newest.value - system.value).total_seconds() > limit("clock_ahead_s"):
        words += f", but a file of this project was written at {_minute(newest.value)}"
        source = sources(system.case.facts.system.now.source, newest.source)
        return warned(words, "a correct clock", source, command=_LOOK_AT_CLOCK)
    if kept.value is None:
        return unread(kept)
    if kept.value:
        return passed("the clock is synchronized", source=kept.source)
    words += "; the kernel reports no synchronization"
    return info(words, "NTP, unless the host synchronizes the clock", kept.source, command=_LOOK_AT_CLOCK)


def _minute(time: datetime) -> str:
    return time.isoformat()[:16]


@_limits("memory-small", "System memory", of=of_system(lambda system: system.memory_bytes))
def _memory(system: SystemCase[int]) -> Judgement:
    """The kernel kills processes that exceed the memory, without an error message."""
    total, bound = system.value, system.case.facts.system.memory_limit
    capped = bound.value.limit if bound.value is not None else None
    usable = total if capped is None else min(total, capped)
    words = f"{gib(usable)} of memory"
    if usable < total:
        words += f" (limit of the control group; the machine has {gib(total)})"
    source = sources(system.case.facts.system.memory_bytes.source, bound.source)
    if usable >= limit("memory_bytes"):
        return passed(words, source=source)
    wanted = f"{gib(limit('memory_bytes'))} or more; torch with CUDA needs about 3 GB"
    return warned(words, wanted, source, command="free -h; cat /sys/fs/cgroup/memory.max")


@_limits("cpu-quota", "CPU quota", of=of_system(lambda system: system.processors))
def _processors(system: SystemCase[Share]) -> Judgement:
    """torch starts one thread per CPU that it sees. With a quota, these threads wait for each other."""
    processors, quota = system.value.processors, system.value.quota
    words = counted(processors, "CPU")
    if quota is not None and quota < processors:
        words += f", but the control group limits CPU time to {quota:g}"
        wanted = f"a larger quota, or at most {counted(max(1, int(quota)), 'DataLoader worker')}"
        return warned(words, wanted, command="cat /sys/fs/cgroup/cpu.max; nproc")
    if processors == 1:
        return info(f"{words}: the training process also prepares the data", command="nproc")
    return passed(words)


@_limits("open-files", "Limit on open files", of=of_system(lambda system: system.open_files))
def _open_files(system: SystemCase[Bound]) -> Judgement:
    """DataLoader workers share tensors as open files."""
    soft, hard = system.value.limit, system.case.facts.system.open_files_hard.value
    words = f"{soft or 'unlimited'} open files"
    if system.case.machine.platform.startswith("osx-"):
        return info(f"{words}; on macOS, workers share tensors by name")
    if soft is None or soft >= limit("open_files"):
        return passed(words)
    most = hard.limit if hard is not None and hard.limit is not None else limit("open_files")
    words = f"at most {soft} open files, so DataLoader workers fail with `Too many open files`"
    return warned(words, f"{limit('open_files')} or more", command=f"ulimit -n {min(most, 65536)}")


@_limits(
    "locked-memory", "Limit on locked memory", of=of_system(lambda system: system.locked_memory), severity=Verdict.INFO
)
def _locked(system: SystemCase[Bound]) -> Judgement:
    """NCCL locks memory for InfiniBand. With a low limit, it fails with `ibv_reg_mr failed`."""
    bound = system.value.limit
    words = f"{'unlimited' if bound is None else gib(bound)} of locked memory"
    if bound is not None and len(system.case.facts.gpus) > 1:
        words += "; NCCL over InfiniBand needs more"
        return info(words, "unlimited, for multi-node training", command="ulimit -l")
    return passed(words)


@_variables("library-path", "LD_LIBRARY_PATH and LD_PRELOAD", severity=Verdict.INFO, row=33)
def _library_path(case: Case) -> Iterator[Judgement]:
    """They can replace libraries of the lockfile. `envforge verify env` checks which ones are loaded."""
    # report LD_LIBRARY_PATH as a fact, not a problem: the DT_RPATH of wheels has precedence
    folders = case.facts.variables.get("LD_LIBRARY_PATH", "").split(":")
    of_cuda = [folder for folder in folders if _CUDA_FOLDER.search(folder)]
    preload = case.facts.variables.get("LD_PRELOAD", "").strip()
    if of_cuda:
        words = f"LD_LIBRARY_PATH contains {', '.join(of_cuda)}; PyTorch wheels search their own libraries first"
        command = "env -u LD_LIBRARY_PATH envforge verify env"
        yield info(words, source=_ENVIRONMENT, subject="LD_LIBRARY_PATH", command=command)
    if preload:
        words = f"LD_PRELOAD loads {preload} into every program"
        yield info(words, source=_ENVIRONMENT, subject="LD_PRELOAD", command="env -u LD_PRELOAD envforge verify env")
    if not of_cuda and not preload:
        yield passed("neither a CUDA library path nor LD_PRELOAD is set", source=_ENVIRONMENT)


@_variables("slow-variables", "Variables that slow training", severity=Verdict.WARN, row=47)
def _hurting(case: Case) -> Iterator[Judgement]:
    """Left over from debugging, such variables slow every run or change its results, without a message."""
    rows = hurting_variables()
    values = {name: case.facts.variables[name] for name in rows if name in case.facts.variables}
    hurting = {name: value for name, value in values.items() if rows[name].applies(value)}
    for name, value in hurting.items():
        words = f"{name}={value}: {rows[name].effect}"
        yield warned(words, "not set", _ENVIRONMENT, subject=name, command=f"unset {name}")
    if not hurting:
        words = f"none of {len(rows)} variables that slow training or change its results is set"
        yield passed(words, source=_ENVIRONMENT)


@_variables("overrides-set", "Variables that override the machine", severity=Verdict.INFO)
def _overrides(case: Case) -> Iterator[Judgement]:
    """With CONDA_OVERRIDE_CUDA and similar, a lockfile that this machine can't use seems to fit."""
    stated = [name for name in OVERRIDES if name in case.facts.variables]
    for name in stated:
        words = f"{name}={case.facts.variables[name]}: conda and `envforge lock` use it instead of the machine's value"
        yield info(words, source=_ENVIRONMENT, subject=name, command=f"unset {name}")
    if not stated:
        yield passed("no override is set", source=_ENVIRONMENT)
