"""Check that the machine meets the requirements of the lockfile, by the rules of ``select.fit``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packaging.version import Version

from envforge.base.redact import lock_command
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.machine.values import Gpu, driver_text
from envforge.pytorch.fit import Facts, Misfit, driver_grade, has_cubin, has_ptx, read_facts
from envforge.pytorch.selection import Build, Grade
from envforge.verify.machine.facts import NO_LOCK, OLD_NO_LOCK, LockNeeds
from envforge.verify.machine.judging import Case, fail, info, judged, no_gpus, passed, skip, sources, unread, warn
from envforge.verify.machine.reference_data import cpu_level, matrix
from envforge.verify.values import Check, Judgement, Verdict

_NATIVE_BF16 = ComputeCapability(8, 0)
_TENSOR_CORES = ComputeCapability(7, 0)


def _lock(case: Case) -> Iterator[Judgement]:
    """Judge whether the lockfile can be installed exactly; ``lock-usable`` judges whether it can be read."""
    signal = case.facts.lock
    needs = signal.value
    if needs is None:
        if not signal.unreadable or signal.unreadable in (NO_LOCK, OLD_NO_LOCK):
            yield skip(NO_LOCK)
        else:
            wanted = "a lockfile that can be installed exactly"
            yield fail(signal.unreadable, wanted=wanted, source=signal.source, command="envforge lock")
    elif needs.platform not in needs.platforms:
        words = f"the lockfile is for {', '.join(needs.platforms)}; the machine is {needs.platform}"
        yield fail(
            words, wanted=needs.platform, source=signal.source, command=lock_command((*needs.platforms, needs.platform))
        )
    elif needs.misplaced:
        wanted = "wheels for this platform and the locked Python"
        yield fail("; ".join(needs.misplaced), wanted=wanted, source=signal.source, command="envforge lock")
    else:
        yield passed(f"for this platform; it requires {needs.words}", source=signal.source)


def _without_cuda(case: Case) -> Judgement | None:
    """Return the reason if there is nothing to compare with a driver or GPU."""
    if case.needs is None:
        return skip(NO_LOCK if case.facts.lock.value is None else "the lockfile is not for this platform")
    if case.needs.cuda is None:
        return skip("the lockfile contains no CUDA", source=case.facts.lock.source)
    return None


def _driver(case: Case) -> Iterator[Judgement]:
    yield from _graded(case, minor=False)


def _minor(case: Case) -> Iterator[Judgement]:
    yield from _graded(case, minor=True)


def _graded(case: Case, *, minor: bool) -> Iterator[Judgement]:
    """Compare the driver with the locked CUDA: its major version, or (``minor``) its minor version."""
    needs, stop = case.needs, _without_cuda(case)
    if stop is not None or needs is None or needs.cuda is None:
        yield stop or skip(NO_LOCK)
        return
    facts = read_facts(case.machine, needs.platform)
    if not facts.has_driver:
        is_unknown = bool(case.machine.gpus) and case.silence is None
        yield _unknown_driver("") if is_unknown else no_gpus(case)
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
            f"{found}; the lockfile contains CUDA {cuda} (`{needs.cuda.package}`)",
            wanted=f"{grade.wanted}, for CUDA {cuda.major}",
            source=source,
            command=case.explain,
        )
    elif grade is Grade.UNVERIFIED and not facts.driver and not facts.driver_cuda:
        yield _unknown_driver(source)
    elif minor and grade is Grade.MINOR_COMPATIBLE:
        yield warn(
            f"{found}; CUDA {cuda} works through CUDA minor-version compatibility",
            wanted=f"NVIDIA driver {_direct(cuda, facts)} or newer",
            source=source,
            command=case.explain,
        )
    elif minor and grade is Grade.UNVERIFIED:
        yield info(f"{found}; the driver table has no row for CUDA {cuda}", source=source)
    else:
        yield passed(f"{found}; the lockfile contains CUDA {cuda} (`{needs.cuda.package}`)", source=source)


def _unknown_driver(source: str) -> Judgement:
    return Judgement(verdict=Verdict.UNKNOWN, observed="the driver version is unknown", source=source)


def _driver_words(facts: Facts) -> str:
    served = f" (supports CUDA {facts.driver_cuda})" if facts.driver_cuda else ""
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
            f"the kernels of torch {needs.torch} are not in the build table"
            if needs.torch
            else "the lockfile has no torch"
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
        words = f"the compute capability of {gpu.name} is unknown"
        return Judgement(verdict=Verdict.UNKNOWN, observed=words, source=source)
    words = f"{gpu.name} has compute capability {capability}"
    has = f"torch {needs.torch} ({needs.tag}) contains kernels for {', '.join(needs.capabilities)}"
    if has_cubin(build, capability, matrix()):
        return passed(f"{words}; {has}", source=source)
    if not has_ptx(build, capability, matrix()):
        return fail(f"{words}; {has}", wanted=f"a kernel for {capability}", source=source, command=case.explain)
    facts = read_facts(case.machine, needs.platform)
    grade = driver_grade(Version(needs.cuda.version), facts, matrix()) if needs.cuda else Grade.UNVERIFIED
    if grade is Grade.MINOR_COMPATIBLE:
        newer = _direct(Version(needs.cuda.version), facts) if needs.cuda else ""
        wanted = f"a kernel for {capability}, or a driver that can compile this PTX: {newer} or newer"
        return fail(
            f"{words}; {has} and PTX, but this driver is too old to compile it",
            wanted=wanted,
            source=source,
            command=case.explain,
        )
    return warn(
        f"{words}; {has}, and PTX that the driver compiles at the first start, which takes minutes",
        wanted=f"a kernel for {capability}",
        source=source,
        command=case.explain,
    )


def _build(needs: LockNeeds) -> Build:
    """Return the build in the record; only its kernels are used."""
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
        yield skip("only Linux has glibc")
    elif needs is None or needs.glibc is None:
        yield skip(NO_LOCK if needs is None else "the lockfile requires no glibc", source=source)
    elif state is not None:
        wanted = f"glibc {needs.glibc.version} or newer"
        command = case.explain if case.described_as else "ldd --version"
        yield fail(state.symptom, wanted=wanted, source=source, command=command)
    elif found is None:
        yield Judgement(verdict=Verdict.UNKNOWN, observed="the glibc version is unknown", source=source)
    elif found < Version(needs.glibc.version):
        wanted = f"glibc {needs.glibc.version} or newer, for `{needs.glibc.package}`"
        yield fail(f"glibc {found}", wanted=wanted, source=source, command=case.explain)
    else:
        yield passed(f"glibc {found}; `{needs.glibc.package}` requires {needs.glibc.version}", source=source)


def _cpu(case: Case) -> Iterator[Judgement]:
    signal, platform = case.facts.system.cpu, case.machine.platform
    if not platform.startswith("linux-"):
        yield skip("checked only on Linux", source=signal.source)
        return
    if signal.value is None:
        yield unread(signal)
        return
    flags = set(signal.value.flags)
    name = signal.value.model or "the CPU"
    bf16 = sorted(flags & set(cpu_level("bf16")))
    if platform != "linux-64":
        yield info(f"{name}; bf16 in hardware: {', '.join(bf16) or 'no'}", source=signal.source)
        return
    lacks_v2 = [flag for flag in cpu_level("v2") if flag not in flags]
    lacks_v3 = [flag for flag in cpu_level("v3") if flag not in flags]
    if lacks_v2:
        words = f"{name} lacks {', '.join(lacks_v2)}, so programs crash with `Illegal instruction`"
        yield fail(words, wanted="x86-64-v2", source=signal.source, command="lscpu")
    elif lacks_v3:
        words = f"{name} lacks {', '.join(lacks_v3)}: slow, and some wheels crash with `Illegal instruction`"
        yield warn(words, wanted="x86-64-v3", source=signal.source, command="lscpu")
    else:
        yield passed(f"{name} supports x86-64-v3; bf16 in hardware: {', '.join(bf16) or 'no'}", source=signal.source)


def _precision(case: Case) -> Iterator[Judgement]:
    """Yield the precision for each GPU: bf16 from 8.0, fp16 with a GradScaler on 7.x, fp32 on older ones."""
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
        return "bf16, computed by its tensor cores, without gradient scaling"
    if capability >= _TENSOR_CORES:
        return "fp16 with gradient scaling; bf16 is only emulated, and slower than fp32"
    return "fp32: without tensor cores, mixed precision saves memory but hardly any time"


CHECKS = (
    Check(
        id="lock-not-installable",
        question="machine",
        group="compatibility",
        title="Installability of the lockfile",
        why="A file without a checksum, or for another platform or Python, makes the installation fail.",
        severity=Verdict.FAIL,
        judge=judged(_lock),
        required=True,
    ),
    Check(
        id="driver-too-old",
        question="machine",
        group="compatibility",
        title="Driver version for the lockfile's CUDA",
        why="torch reports `The NVIDIA driver on your system is too old` and trains on the CPU.",
        severity=Verdict.FAIL,
        judge=judged(_driver),
        required=True,
        row=6,
    ),
    Check(
        id="driver-minor-older",
        question="machine",
        group="compatibility",
        title="Driver version for PTX of the lockfile's CUDA",
        why="An older driver can't compile PTX of a newer toolkit: `PTX was compiled with an unsupported toolchain`.",
        severity=Verdict.WARN,
        judge=judged(_minor),
        row=7,
    ),
    Check(
        id="no-kernel-for-gpu",
        question="machine",
        group="compatibility",
        title="Kernels of the locked torch for each GPU",
        why="Without them, CUDA programs fail: `no kernel image is available for execution on the device`.",
        severity=Verdict.FAIL,
        judge=judged(_kernels),
        required=True,
        row=8,
    ),
    Check(
        id="glibc-too-old",
        question="machine",
        group="compatibility",
        title="glibc version",
        why="With an older glibc: `GLIBC_2.28 not found` or `not a supported wheel on this platform`.",
        severity=Verdict.FAIL,
        judge=judged(_glibc),
        row=36,
    ),
    Check(
        id="cpu-too-old",
        question="machine",
        group="compatibility",
        title="CPU instruction sets",
        why="Packages built for newer CPUs crash with `Illegal instruction` on older ones.",
        severity=Verdict.FAIL,
        judge=judged(_cpu),
        row=37,
    ),
    Check(
        id="precision",
        question="machine",
        group="compatibility",
        title="Best training precision",
        why="bf16 is only emulated on GPUs such as T4 and V100, where it is slower than fp32.",
        severity=Verdict.INFO,
        judge=judged(_precision),
    ),
)
