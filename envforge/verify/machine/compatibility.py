"""Checks: does this machine meet its lock? Before anything is downloaded, by the rules of ``select.fit``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packaging.version import Version

from envforge.cuda import ComputeCapability, WheelTag
from envforge.machine import Gpu, driver_text
from envforge.select.fit import Facts, Misfit, driver_grade, has_cubin, has_ptx, read_facts
from envforge.selection import Build, Grade
from envforge.verify.machine.facts import NO_LOCK, LockNeeds
from envforge.verify.machine.judging import (
    Case,
    fail,
    info,
    judged,
    no_gpus,
    passed,
    skip,
    sources,
    unread,
    warn,
)
from envforge.verify.machine.tables import cpu_level, matrix
from envforge.verify.values import Check, Judgement, Verdict

_EXPLAIN = "envforge explain"
_NATIVE_BF16 = ComputeCapability(8, 0)
_TENSOR_CORES = ComputeCapability(7, 0)


def _lock(case: Case) -> Iterator[Judgement]:
    """Whether a lock can be read at all is judged before, by ``lock-usable``."""
    signal = case.facts.lock
    needs = signal.value
    if needs is None:
        if not signal.unreadable or signal.unreadable == NO_LOCK:
            yield skip(NO_LOCK)
        else:
            wanted = "a lock that can be installed exactly"
            yield fail(signal.unreadable, wanted=wanted, source=signal.source, command="envforge lock")
    elif needs.platform not in needs.platforms:
        words = f"the lock is for {', '.join(needs.platforms)}, this machine is {needs.platform}"
        yield fail(words, wanted=needs.platform, source=signal.source, command=f"envforge lock -p {needs.platform}")
    elif needs.misplaced:
        wanted = "wheels for this platform and the lock's Python"
        yield fail("; ".join(needs.misplaced), wanted=wanted, source=signal.source, command="envforge lock")
    else:
        yield passed(f"the lock is for this platform; it needs {needs.words}", source=signal.source)


def _without_cuda(case: Case) -> Judgement | None:
    """Why there is nothing to compare with a driver or GPU."""
    if case.needs is None:
        return skip(NO_LOCK if case.facts.lock.value is None else "the lock is not for this platform")
    if case.needs.cuda is None:
        return skip("the lock brings no CUDA", source=case.facts.lock.source)
    return None


def _driver(case: Case) -> Iterator[Judgement]:
    yield from _graded(case, minor=False)


def _minor(case: Case) -> Iterator[Judgement]:
    yield from _graded(case, minor=True)


def _graded(case: Case, *, minor: bool) -> Iterator[Judgement]:
    """The driver against the lock's CUDA: too old for its major version, or older than its own toolkit's."""
    needs, stop = case.needs, _without_cuda(case)
    if stop is not None or needs is None or needs.cuda is None:
        yield stop or skip(NO_LOCK)
        return
    facts = read_facts(case.machine, needs.platform)
    if not facts.has_driver:
        yield no_gpus(case)
        return
    cuda = Version(needs.cuda.version)
    grade = driver_grade(cuda, facts, matrix())
    found = _driver_words(facts)
    known = case.machine.source("driver.user_version") or case.machine.source("driver.kernel_version")
    source = sources(known, case.facts.lock.source)
    if isinstance(grade, Misfit):
        if minor:
            yield skip("see `driver-too-old`", source=source)
            return
        yield fail(
            f"{found}; `{needs.cuda.package}` brings CUDA {cuda}",
            wanted=f"{grade.wanted}, for CUDA {cuda.major}",
            source=source,
            command=_EXPLAIN,
        )
    elif grade is Grade.UNVERIFIED and not facts.driver and not facts.driver_cuda:
        yield Judgement(verdict=Verdict.UNKNOWN, observed="the driver's version is not known", source=source)
    elif minor and grade is Grade.MINOR_COMPATIBLE:
        yield warn(
            f"{found}; CUDA {cuda} runs by minor-version compatibility",
            wanted=f"NVIDIA driver {_direct(cuda, facts)} or newer",
            source=source,
            command=_EXPLAIN,
        )
    elif minor and grade is Grade.UNVERIFIED:
        yield info(f"{found}; the driver of CUDA {cuda} is not in our table", source=source)
    else:
        yield passed(f"{found}; `{needs.cuda.package}` brings CUDA {cuda}", source=source)


def _driver_words(facts: Facts) -> str:
    served = f" (serves CUDA {facts.driver_cuda})" if facts.driver_cuda else ""
    return f"NVIDIA driver {driver_text(facts.driver) if facts.driver else 'of unknown version'}{served}"


def _direct(cuda: Version, facts: Facts) -> str:
    row = matrix().direct_minimum(cuda)
    return driver_text(row.driver(windows=facts.windows_driver)) if row else "of that toolkit"


def _kernels(case: Case) -> Iterator[Judgement]:
    needs, stop = case.needs, _without_cuda(case)
    if stop is not None or needs is None:
        yield stop or skip(NO_LOCK)
        return
    if not needs.capabilities:
        words = (
            f"which kernels torch {needs.torch} holds is not in our table" if needs.torch else "the lock has no torch"
        )
        yield info(words, source=case.facts.lock.source) if needs.torch else skip(words, source=case.facts.lock.source)
        return
    if not case.machine.visible_gpus:
        yield no_gpus(case)
    for gpu in case.machine.visible_gpus:
        yield replace(_kernel(case, needs, gpu), subject=f"GPU {gpu.index}")


def _kernel(case: Case, needs: LockNeeds, gpu: Gpu) -> Judgement:
    source = sources("NVML nvmlDeviceGetCudaComputeCapability", case.facts.lock.source)
    capability, build = case.machine.capability_override or gpu.compute_capability, _build(needs)
    if capability is None:
        words = f"the compute capability of {gpu.name} is not known"
        return Judgement(verdict=Verdict.UNKNOWN, observed=words, source=source)
    words = f"{gpu.name} has compute capability {capability}"
    has = f"torch {needs.torch} ({needs.tag}) holds kernels for {', '.join(needs.capabilities)}"
    if has_cubin(build, capability, matrix()):
        return passed(f"{words}; {has}", source=source)
    if not has_ptx(build, capability, matrix()):
        return fail(f"{words}; {has}", wanted=f"a kernel for {capability}", source=source, command=_EXPLAIN)
    facts = read_facts(case.machine, needs.platform)
    grade = driver_grade(Version(needs.cuda.version), facts, matrix()) if needs.cuda else Grade.UNVERIFIED
    if grade is Grade.MINOR_COMPATIBLE:
        newer = _direct(Version(needs.cuda.version), facts) if needs.cuda else ""
        wanted = f"a kernel for {capability}, or a driver that compiles this PTX: {newer}"
        return fail(
            f"{words}; {has} and PTX, which this driver is too old to compile",
            wanted=wanted,
            source=source,
            command=_EXPLAIN,
        )
    return warn(
        f"{words}; {has}, and PTX that the driver compiles at the first start, which takes minutes",
        wanted=f"a kernel for {capability}",
        source=source,
        command=_EXPLAIN,
    )


def _build(needs: LockNeeds) -> Build:
    """The build as the record has it: its kernels are what counts here."""
    return Build(
        torch=Version(needs.torch or "0"),
        torchvision=None,
        torchaudio=None,
        tag=WheelTag.parse(needs.tag or "cpu"),
        platform=needs.platform,
        pythons=(),
        glibc=None,
        capabilities=tuple(map(ComputeCapability.parse, needs.capabilities)),
        ptx=tuple(map(ComputeCapability.parse, needs.ptx)),
    )


def _glibc(case: Case) -> Iterator[Judgement]:
    needs, found = case.needs, case.machine.glibc
    source = sources(case.machine.source("glibc"), case.facts.lock.source)
    state = case.condition("no-glibc")
    if not case.machine.platform.startswith("linux-"):
        yield skip("glibc is Linux's own")
    elif needs is None or needs.glibc is None:
        yield skip(NO_LOCK if needs is None else "the lock needs no glibc", source=source)
    elif state is not None or found is None:
        words = state.symptom if state else "this Linux has no glibc"
        yield fail(words, wanted=f"glibc {needs.glibc.version} or newer", source=source, command="ldd --version")
    elif found < Version(needs.glibc.version):
        wanted = f"glibc {needs.glibc.version} or newer, for `{needs.glibc.package}`"
        yield fail(f"glibc {found}", wanted=wanted, source=source, command=_EXPLAIN)
    else:
        yield passed(f"glibc {found}; `{needs.glibc.package}` needs {needs.glibc.version}", source=source)


def _cpu(case: Case) -> Iterator[Judgement]:
    signal, platform = case.facts.system.cpu, case.machine.platform
    if not platform.startswith("linux-"):
        yield skip("read on Linux alone", source=signal.source)
        return
    if signal.value is None:
        yield unread(signal)
        return
    flags = set(signal.value.flags)
    name = signal.value.model or "the processor"
    bf16 = sorted(flags & set(cpu_level("bf16")))
    if platform != "linux-64":
        yield info(f"{name}: bf16 in hardware: {', '.join(bf16) or 'no'}", source=signal.source)
        return
    lacks_v2 = [flag for flag in cpu_level("v2") if flag not in flags]
    lacks_v3 = [flag for flag in cpu_level("v3") if flag not in flags]
    if lacks_v2:
        words = f"{name} lacks {', '.join(lacks_v2)}: programs end with `Illegal instruction`"
        yield fail(words, wanted="x86-64-v2", source=signal.source, command="lscpu")
    elif lacks_v3:
        words = f"{name} lacks {', '.join(lacks_v3)}: the CPU is slow, and some wheels end with `Illegal instruction`"
        yield warn(words, wanted="x86-64-v3", source=signal.source, command="lscpu")
    else:
        yield passed(f"{name} has x86-64-v3; bf16 in hardware: {', '.join(bf16) or 'no'}", source=signal.source)


def _precision(case: Case) -> Iterator[Judgement]:
    """bf16 from 8.0, fp16 with a scaler on 7.x, fp32 below (DESIGN: "Scaffolds are code that people keep")."""
    alike: dict[tuple[str, ComputeCapability], list[str]] = {}
    for gpu in case.machine.visible_gpus:
        if gpu.compute_capability is not None:
            alike.setdefault((gpu.name, gpu.compute_capability), []).append(str(gpu.index))
    if not alike:
        yield no_gpus(case) if not case.machine.gpus else skip("no visible GPU has a known compute capability")
    for (name, capability), numbers in alike.items():
        words = f"{name} ({capability}): {_precision_of(capability)}"
        source = "NVML nvmlDeviceGetCudaComputeCapability"
        yield info(words, source=source, subject=f"GPU {', '.join(numbers)}")


def _precision_of(capability: ComputeCapability) -> str:
    if capability >= _NATIVE_BF16:
        return "bf16: its tensor cores multiply it, and no gradient scaling is needed"
    if capability >= _TENSOR_CORES:
        return "fp16 with gradient scaling; bf16 is emulated here and slower than fp32"
    return "fp32: it has no tensor cores, so that mixed precision saves memory and hardly any time"


CHECKS = (
    Check(
        id="lock-not-installable",
        question="machine",
        group="compatibility",
        title="the lock can be installed here exactly",
        why="Files without a checksum, or for another platform or Python, stop an install, at times after its download",
        severity=Verdict.FAIL,
        judge=judged(_lock),
        required=True,
    ),
    Check(
        id="driver-too-old",
        question="machine",
        group="compatibility",
        title="the driver serves the lock's CUDA",
        why="torch says `The NVIDIA driver on your system is too old` and trains on the CPU",
        severity=Verdict.FAIL,
        judge=judged(_driver),
        required=True,
        row=6,
    ),
    Check(
        id="driver-minor-older",
        question="machine",
        group="compatibility",
        title="the driver is of the lock's CUDA or newer",
        why="PTX made by a newer toolkit is not compiled: `PTX was compiled with an unsupported toolchain`",
        severity=Verdict.WARN,
        judge=judged(_minor),
        row=7,
    ),
    Check(
        id="no-kernel-for-gpu",
        question="machine",
        group="compatibility",
        title="the locked torch has kernels for every GPU",
        why="Otherwise, after gigabytes of download: `no kernel image is available for execution on the device`",
        severity=Verdict.FAIL,
        judge=judged(_kernels),
        required=True,
        row=8,
    ),
    Check(
        id="glibc-too-old",
        question="machine",
        group="compatibility",
        title="glibc is new enough",
        why="An older one ends with `GLIBC_2.28 not found` or `not a supported wheel on this platform`",
        severity=Verdict.FAIL,
        judge=judged(_glibc),
        row=36,
    ),
    Check(
        id="cpu-too-old",
        question="machine",
        group="compatibility",
        title="the processor has the instruction sets",
        why="Packages are built for newer processors and end with `Illegal instruction` on older ones",
        severity=Verdict.FAIL,
        judge=judged(_cpu),
        row=37,
    ),
    Check(
        id="precision",
        question="machine",
        group="compatibility",
        title="which precision trains best here",
        why="bf16 on a T4 or V100 is emulated: it runs, and is slower than fp32",
        severity=Verdict.INFO,
        judge=judged(_precision),
    ),
)
