"""Checks: memory, disks, limits, the clock. Rows 31, 41, 42 and 44 of the table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from datetime import datetime

from envforge.verify.machine.facts import LockNeeds, Room
from envforge.verify.machine.judging import Case, fail, gib, info, judged, passed, skip, sources, unread, warn
from envforge.verify.machine.tables import limit, share
from envforge.verify.values import Check, Judgement, Signal, Verdict

_SHM = "/dev/shm"  # noqa: S108 - named, never written to


def _shared_memory(case: Case) -> Iterator[Judgement]:
    signal = case.facts.system.shared_memory
    if not case.machine.platform.startswith("linux-"):
        yield skip(f"{_SHM} is Linux's own", source=signal.source)
    elif signal.value is None:
        yield unread(signal)
    elif signal.value.free_bytes < limit("shared_memory_bytes"):
        container = case.facts.system.container is not None
        wanted = f"{gib(limit('shared_memory_bytes'))} or more" + (
            "; docker: --shm-size=8g or --ipc=host" if container else ""
        )
        yield warn(
            f"{_SHM} has {gib(signal.value.free_bytes)} free: DataLoader workers end with `Bus error`",
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
    return passed(f"{words}, {gib(wanted)} is wanted", source=signal.source, subject=room.role)


def _pasted(folder: str) -> str:
    """A folder as a shell takes it; the home folder of a redacted record stays one."""
    home, slash, rest = folder.partition("/")
    return f"~/{shlex.quote(rest)}" if home == "~" and slash else shlex.quote(folder)


def _wanted(needs: LockNeeds | None, role: str) -> tuple[int, str]:
    """The room that is wanted at a place, and how it was reckoned."""
    if role == "temporary files":
        return limit("temporary_bytes"), "for downloads and builds"
    if needs is None or needs.is_installed:
        return limit("disk_installed_bytes"), "a run writes checkpoints"
    if needs.files and needs.files_sized >= needs.files * share("sizes_known_share"):
        factor = limit("disk_factor")
        return needs.download_bytes * factor, f"{factor} times the {gib(needs.download_bytes)} of the lock's files"
    kind = "disk_gpu_bytes" if needs.cuda is not None else "disk_cpu_bytes"
    return limit(kind), "by rule of thumb, since the lock has no sizes"


def _inodes(case: Case) -> Iterator[Judgement]:
    for signal in case.facts.system.rooms:
        room = signal.value
        if room is None:
            yield unread(signal)
        elif room.free_inodes is None:
            yield skip("this disk does not count files", source=signal.source, subject=room.role)
        elif room.free_inodes < limit("inodes") and case.needs is not None and not case.needs.is_installed:
            yield fail(
                f"room for {room.free_inodes} more files ({room.path})",
                wanted=f"room for {limit('inodes')} files",
                source=signal.source,
                subject=room.role,
                command=f"df -i {_pasted(room.folder)}",
            )
        else:
            yield passed(f"room for {room.free_inodes} more files", source=signal.source, subject=room.role)


def _clock(case: Case) -> Iterator[Judgement]:
    kept, now, newest = case.facts.system.clock_kept, case.facts.system.now, case.facts.system.newest_file
    if now.value is None:
        yield unread(now)
        return
    if newest.value is not None:
        behind = (datetime.fromisoformat(newest.value) - datetime.fromisoformat(now.value)).total_seconds()
        if behind > limit("clock_ahead_s"):
            yield warn(
                f"the clock says {now.value[:16]}, and a file of this project was written at {newest.value[:16]}",
                wanted="a clock that is right: with a wrong one `certificate is not yet valid` ends downloads",
                source=sources(now.source, newest.source),
                command="date -u; timedatectl",
            )
            return
    if kept.value is None:
        yield unread(kept)
    elif not kept.value:
        words = f"the clock says {now.value[:16]}; the kernel does not know of anything that keeps it right"
        yield info(
            words, wanted="NTP, where the host does not keep it", source=kept.source, command="date -u; timedatectl"
        )
    else:
        yield passed("the clock is kept right", source=kept.source)


def _memory(case: Case) -> Iterator[Judgement]:
    total, bound = case.facts.system.memory_bytes, case.facts.system.memory_limit
    if total.value is None:
        yield unread(total) if case.machine.platform.startswith("linux-") else skip("read on Linux alone")
        return
    capped = bound.value.limit if bound.value is not None else None
    usable = min(total.value, capped) if capped is not None else total.value
    words = f"{gib(usable)} of memory"
    if capped is not None and capped < total.value:
        words += f" by the limit of the control group, of {gib(total.value)}"
    source = sources(total.source, bound.source)
    if usable < limit("memory_bytes"):
        wanted = f"{gib(limit('memory_bytes'))}: torch with CUDA alone takes 3 GB, and the kernel ends what exceeds it"
        yield warn(words, wanted=wanted, source=source, command="free -h; cat /sys/fs/cgroup/memory.max")
    else:
        yield passed(words, source=source)


def _processors(case: Case) -> Iterator[Judgement]:
    signal = case.facts.system.processors
    if signal.value is None:
        yield unread(signal)
        return
    processors, quota = signal.value.processors, signal.value.quota
    words = f"{processors} processor(s)"
    if quota is not None and quota < processors:
        words += f", of which the control group gives the time of {quota:g}"
        wanted = f"at most {max(1, int(quota))} DataLoader workers, or a larger quota: torch counts the processors"
        yield warn(words, wanted=wanted, source=signal.source, command="cat /sys/fs/cgroup/cpu.max; nproc")
    elif processors == 1:
        yield info(f"{words}: data is prepared by the process that trains", source=signal.source, command="nproc")
    else:
        yield passed(words, source=signal.source)


def _open_files(case: Case) -> Iterator[Judgement]:
    signal, hard = case.facts.system.open_files, case.facts.system.open_files_hard
    if signal.value is None:
        yield unread(signal) if not case.machine.platform.startswith("win-") else skip("Windows has no such limit")
    elif case.machine.platform.startswith("osx-"):
        yield info(
            f"{signal.value.limit or 'unlimited'} open files; workers on macOS share by name", source=signal.source
        )
    elif signal.value.limit is not None and signal.value.limit < limit("open_files"):
        most = hard.value.limit if hard.value is not None and hard.value.limit is not None else limit("open_files")
        yield warn(
            f"{signal.value.limit} open files at most: DataLoader workers end with `Too many open files`",
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
        words = f"{gib(signal.value.limit)} of locked memory: NCCL over InfiniBand needs more"
        yield info(
            words, wanted="unlimited, for training on several machines", source=signal.source, command="ulimit -l"
        )
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
        f"{_SHM} has room",
        "DataLoader workers hand batches over in it; docker gives 64 MiB",
        _shared_memory,
        31,
    ),
    _check(
        "disk-full",
        "the disks have room",
        "An install that ends with `No space left on device` has cost its download",
        _disks,
        41,
    ),
    _check("inodes-full", "the disks have room for files", "A disk can be full of files with room left", _inodes, 41),
    _check(
        "clock-wrong",
        "the clock is right",
        "With a wrong clock downloads end with `certificate is not yet valid`, and builds go astray",
        _clock,
        42,
    ),
    _check(
        "memory-small", "there is enough memory", "What exceeds it is ended by the kernel, without words", _memory, 44
    ),
    _check(
        "cpu-quota",
        "the processors are ours",
        "torch starts a thread for each processor that it sees; with a quota they wait for each other",
        _processors,
        44,
    ),
    _check("open-files", "enough files may be open", "DataLoader workers share tensors as open files", _open_files, 44),
    Check(
        id="locked-memory",
        question="machine",
        group="system",
        title="memory may be locked",
        why="NCCL locks memory for InfiniBand; a low limit ends it with `ibv_reg_mr failed`",
        severity=Verdict.INFO,
        judge=judged(_locked),
        row=44,
    ),
)
