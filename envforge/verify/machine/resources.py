"""Check memory, disks, limits, the clock, and environment variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import datetime

from envforge.machine.values import VARIABLES as OVERRIDES
from envforge.verify.machine.facts import LockNeeds, Room
from envforge.verify.machine.judging import Case, counted, fail, gib, info, judged, passed, skip, sources, unread, warn
from envforge.verify.machine.reference_data import hurting_variables, limit, share
from envforge.verify.values import Check, Judgement, Signal, Verdict

_SHM = "/dev/shm"  # noqa: S108 - only its name and free space are used


def _shared_memory(case: Case) -> Iterator[Judgement]:
    signal = case.facts.system.shared_memory
    if not case.machine.platform.startswith("linux-"):
        yield skip(f"only Linux has {_SHM}", source=signal.source)
    elif signal.value is None:
        yield unread(signal)
    elif signal.value.free_bytes < limit("shared_memory_bytes"):
        container = case.facts.system.container is not None
        wanted = f"{gib(limit('shared_memory_bytes'))} or more" + (
            "; with Docker, pass --shm-size=8g or --ipc=host" if container else ""
        )
        yield warn(
            f"{_SHM} has {gib(signal.value.free_bytes)} free, so DataLoader workers crash with `Bus error`",
            wanted=wanted,
            source=signal.source,
            command="df -h /dev/shm",
        )
    else:
        yield passed(f"{_SHM} has {gib(signal.value.free_bytes)} free", source=signal.source)


def _disks(case: Case) -> Iterator[Judgement]:
    for signal in case.facts.system.rooms:
        yield unread(signal) if signal.value is None else _disk(case, signal.value, signal)


def _disk(case: Case, room: Room, signal: Signal[Room]) -> Judgement:
    wanted, reason = _wanted(case.needs, room.role)
    place = {"source": signal.source, "subject": room.role, "command": f"df -h {_pasted(room.folder)}"}
    words = f"{gib(room.free_bytes)} free for {room.role} ({room.path})"
    if room.free_bytes < wanted:
        return (warn if room.role == "temporary files" else fail)(words, wanted=f"{gib(wanted)}: {reason}", **place)
    return passed(f"{words}; {gib(wanted)} required", source=signal.source, subject=room.role)


def _pasted(folder: str) -> str:
    """Quote a directory for a shell; ``~`` in a redacted record keeps its meaning."""
    home, slash, rest = folder.partition("/")
    return f"~/{shlex.quote(rest)}" if home == "~" and slash else shlex.quote(folder)


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


def _inodes(case: Case) -> Iterator[Judgement]:
    for signal in case.facts.system.rooms:
        room = signal.value
        if room is None:
            yield unread(signal)
        elif room.free_inodes is None:
            yield skip("this file system has no inode limit", source=signal.source, subject=room.role)
        elif room.free_inodes < limit("inodes") and case.needs is not None and not case.needs.is_installed:
            yield fail(
                f"{room.free_inodes} free inodes ({room.path})",
                wanted=f"{limit('inodes')} or more",
                source=signal.source,
                subject=room.role,
                command=f"df -i {_pasted(room.folder)}",
            )
        else:
            yield passed(f"{room.free_inodes} free inodes", source=signal.source, subject=room.role)


def _clock(case: Case) -> Iterator[Judgement]:
    kept, now, newest = case.facts.system.clock_kept, case.facts.system.now, case.facts.system.newest_file
    if now.value is None:
        yield unread(now)
        return
    if newest.value is not None:
        behind = (datetime.fromisoformat(newest.value) - datetime.fromisoformat(now.value)).total_seconds()
        if behind > limit("clock_ahead_s"):
            yield warn(
                f"the clock shows {now.value[:16]}, but a file of this project was written at {newest.value[:16]}",
                wanted="a correct clock",
                source=sources(now.source, newest.source),
                command="date -u; timedatectl",
            )
            return
    if kept.value is None:
        yield unread(kept)
    elif not kept.value:
        words = f"the clock shows {now.value[:16]}; the kernel reports no synchronization"
        yield info(
            words,
            wanted="NTP, unless the host synchronizes the clock",
            source=kept.source,
            command="date -u; timedatectl",
        )
    else:
        yield passed("the clock is synchronized", source=kept.source)


def _memory(case: Case) -> Iterator[Judgement]:
    total, bound = case.facts.system.memory_bytes, case.facts.system.memory_limit
    if total.value is None:
        yield unread(total) if case.machine.platform.startswith("linux-") else skip("checked only on Linux")
        return
    capped = bound.value.limit if bound.value is not None else None
    usable = min(total.value, capped) if capped is not None else total.value
    words = f"{gib(usable)} of memory"
    if capped is not None and capped < total.value:
        words += f" (limit of the control group; the machine has {gib(total.value)})"
    source = sources(total.source, bound.source)
    if usable < limit("memory_bytes"):
        wanted = f"{gib(limit('memory_bytes'))} or more; torch with CUDA needs about 3 GB"
        yield warn(words, wanted=wanted, source=source, command="free -h; cat /sys/fs/cgroup/memory.max")
    else:
        yield passed(words, source=source)


def _processors(case: Case) -> Iterator[Judgement]:
    signal = case.facts.system.processors
    if signal.value is None:
        yield unread(signal)
        return
    processors, quota = signal.value.processors, signal.value.quota
    words = counted(processors, "CPU")
    if quota is not None and quota < processors:
        words += f", but the control group limits CPU time to {quota:g}"
        wanted = f"a larger quota, or at most {counted(max(1, int(quota)), 'DataLoader worker')}"
        yield warn(words, wanted=wanted, source=signal.source, command="cat /sys/fs/cgroup/cpu.max; nproc")
    elif processors == 1:
        yield info(f"{words}: the training process also prepares the data", source=signal.source, command="nproc")
    else:
        yield passed(words, source=signal.source)


def _open_files(case: Case) -> Iterator[Judgement]:
    signal, hard = case.facts.system.open_files, case.facts.system.open_files_hard
    if signal.value is None:
        yield unread(signal) if not case.machine.platform.startswith("win-") else skip("Windows has no such limit")
    elif case.machine.platform.startswith("osx-"):
        yield info(
            f"{signal.value.limit or 'unlimited'} open files; on macOS, workers share tensors by name",
            source=signal.source,
        )
    elif signal.value.limit is not None and signal.value.limit < limit("open_files"):
        most = hard.value.limit if hard.value is not None and hard.value.limit is not None else limit("open_files")
        yield warn(
            f"at most {signal.value.limit} open files, so DataLoader workers fail with `Too many open files`",
            wanted=f"{limit('open_files')} or more",
            source=signal.source,
            command=f"ulimit -n {min(most, 65536)}",
        )
    else:
        yield passed(f"{signal.value.limit or 'unlimited'} open files", source=signal.source)


def _locked(case: Case) -> Iterator[Judgement]:
    signal = case.facts.system.locked_memory
    if signal.value is None:
        yield unread(signal) if not case.machine.platform.startswith("win-") else skip("Windows has no such limit")
    elif signal.value.limit is not None and len(case.facts.gpus) > 1:
        words = f"{gib(signal.value.limit)} of locked memory; NCCL over InfiniBand needs more"
        yield info(words, wanted="unlimited, for multi-node training", source=signal.source, command="ulimit -l")
    else:
        known = signal.value.limit
        yield passed(f"{'unlimited' if known is None else gib(known)} of locked memory", source=signal.source)


def _check(identity: str, title: str, why: str, say: Callable[[Case], Iterator[Judgement]], row: int) -> Check:
    return Check(
        id=identity,
        question="machine",
        group="system",
        title=title,
        why=why,
        severity=Verdict.FAIL if identity in ("disk-full", "inodes-full") else Verdict.WARN,
        judge=judged(say),
        row=row,
    )


CHECKS = (
    _check(
        "shm-small",
        f"Space in {_SHM}",
        "DataLoader workers pass batches through it. Docker provides 64 MiB by default.",
        _shared_memory,
        31,
    ),
    _check(
        "disk-full",
        "Disk space",
        "An installation that fails with `No space left on device` wastes its download.",
        _disks,
        41,
    ),
    _check("inodes-full", "Free inodes", "A disk can run out of inodes although it has free space.", _inodes, 41),
    _check(
        "clock-wrong",
        "System clock",
        "With a wrong clock, downloads fail with `certificate is not yet valid`.",
        _clock,
        42,
    ),
    _check(
        "memory-small",
        "System memory",
        "The kernel kills processes that exceed the memory, without an error message.",
        _memory,
        44,
    ),
    _check(
        "cpu-quota",
        "CPU quota",
        "torch starts one thread per CPU that it sees. With a quota, these threads wait for each other.",
        _processors,
        44,
    ),
    _check("open-files", "Limit on open files", "DataLoader workers share tensors as open files.", _open_files, 44),
    Check(
        id="locked-memory",
        question="machine",
        group="system",
        title="Limit on locked memory",
        why="NCCL locks memory for InfiniBand. With a low limit, it fails with `ibv_reg_mr failed`.",
        severity=Verdict.INFO,
        judge=judged(_locked),
        row=44,
    ),
)


_ENVIRONMENT = "environment"
_CUDA_FOLDER = re.compile(r"cuda|cudnn|nccl|tensorrt", re.IGNORECASE)
_OFF = ("", "0")


def _library_path(case: Case) -> Iterator[Judgement]:
    """Report LD_LIBRARY_PATH as a fact, not a problem: the DT_RPATH of wheels has precedence."""
    entries = [
        entry for entry in case.facts.variables.get("LD_LIBRARY_PATH", "").split(":") if _CUDA_FOLDER.search(entry)
    ]
    preload = case.facts.variables.get("LD_PRELOAD", "").strip()
    if entries:
        words = f"LD_LIBRARY_PATH contains {', '.join(entries)}; PyTorch wheels search their own libraries first"
        yield info(
            words,
            source=_ENVIRONMENT,
            subject="LD_LIBRARY_PATH",
            command="env -u LD_LIBRARY_PATH envforge verify env",
        )
    if preload:
        words = f"LD_PRELOAD loads {preload} into every program"
        yield info(words, source=_ENVIRONMENT, subject="LD_PRELOAD", command="env -u LD_PRELOAD envforge verify env")
    if not entries and not preload:
        yield passed("neither a CUDA library path nor LD_PRELOAD is set", source=_ENVIRONMENT)


def _hurting(case: Case) -> Iterator[Judgement]:
    found = False
    for name, row in hurting_variables().items():
        value = case.facts.variables.get(name)
        if value is None or (
            value != row.only if row.only is not None else value.strip() in _OFF and not _counts_off(name)
        ):
            continue
        found = True
        yield warn(
            f"{name}={value}: {row.effect}",
            wanted="not set",
            source=_ENVIRONMENT,
            subject=name,
            command=f"unset {name}",
        )
    if not found:
        yield passed(
            f"none of {len(hurting_variables())} variables that slow training or change its results is set",
            source=_ENVIRONMENT,
        )


def _overrides(case: Case) -> Iterator[Judgement]:
    stated = [name for name in OVERRIDES if name in case.facts.variables]
    for name in stated:
        words = f"{name}={case.facts.variables[name]}: conda and `envforge lock` use it instead of the machine's value"
        yield info(words, source=_ENVIRONMENT, subject=name, command=f"unset {name}")
    if not stated:
        yield passed("no override is set", source=_ENVIRONMENT)


def _counts_off(name: str) -> bool:
    """Return whether the value 0 has an effect, too: NVIDIA_TF32_OVERRIDE=0 forces TF32 off."""
    return name == "NVIDIA_TF32_OVERRIDE"


VARIABLE_CHECKS = (
    Check(
        id="library-path",
        question="machine",
        group="variables",
        title="LD_LIBRARY_PATH and LD_PRELOAD",
        why="They can replace libraries of the lockfile. `envforge verify env` checks which ones are loaded.",
        severity=Verdict.INFO,
        judge=judged(_library_path),
        row=33,
    ),
    Check(
        id="slow-variables",
        question="machine",
        group="variables",
        title="Variables that slow training",
        why="Left over from debugging, such variables slow every run or change its results, without a message.",
        severity=Verdict.WARN,
        judge=judged(_hurting),
        row=47,
    ),
    Check(
        id="overrides-set",
        question="machine",
        group="variables",
        title="Variables that override the machine",
        why="With CONDA_OVERRIDE_CUDA and similar, a lockfile that this machine can't use seems to fit.",
        severity=Verdict.INFO,
        judge=judged(_overrides),
    ),
)
