"""Check that the machine meets the requirements of the lockfile, by the rules of ``select.fit``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from msgspec.structs import replace
from packaging.version import Version

from envforge.base.redact import lock_command
from envforge.base.terms import CPU, ComputeCapability
from envforge.machine.values import Gpu, driver_text
from envforge.pytorch.fit import MachineLimits, Misfit, driver_grade, has_code, has_cubin, has_ptx, read_limits
from envforge.pytorch.matrix import Build, Grade
from envforge.verify.judging import check, failed, info, passed, skipped, unknown, unread, warned
from envforge.verify.machine.case import MACHINE, Case, no_gpus, sources
from envforge.verify.machine.facts import NO_LOCK, LockNeeds
from envforge.verify.machine.reference_data import cpu_level, matrix
from envforge.verify.values import Judgement, Verdict

_PRECISIONS = (
    (ComputeCapability(8, 0), "bf16, computed by its tensor cores, without gradient scaling"),
    (ComputeCapability(7, 0), "fp16 with gradient scaling; bf16 is only emulated, and slower than fp32"),
    (ComputeCapability(0, 0), "fp32: without tensor cores, mixed precision saves memory but hardly any time"),
)
_UNKNOWN_DRIVER = "the driver version is unknown"

_compatibility = partial(check, group="compatibility", of=MACHINE)


@_compatibility("lock-not-installable", "Installability of the lockfile", required=True)
def _lock(case: Case) -> Judgement:
    """A file without a checksum, or for another platform or Python, makes the installation fail."""
    # judge whether the lockfile can be installed exactly; ``lock-usable`` judges whether it can be read
    signal = case.facts.lock
    needs, source = signal.value, signal.source
    if needs is None and (signal.code == "not-found" or signal.unreadable is None):
        return skipped(NO_LOCK)
    if needs is None:
        wanted = "a lockfile that can be installed exactly"
        return failed(signal.unreadable or "", wanted, source, command="envforge lock")
    if needs.platform not in needs.platforms:
        words = f"the lockfile is for {', '.join(needs.platforms)}; the machine is {needs.platform}"
        return failed(words, needs.platform, source, command=lock_command((*needs.platforms, needs.platform)))
    if needs.misplaced:
        wanted = "wheels for this platform and the locked Python"
        return failed("; ".join(needs.misplaced), wanted, source, command="envforge lock")
    return passed(f"for this platform; it requires {needs.words}", source=source)


def _without_cuda(case: Case) -> Judgement | None:
    """Return the reason if there is nothing to compare with a driver or GPU."""
    if case.needs is None:
        return skipped(NO_LOCK if case.facts.lock.value is None else "the lockfile is not for this platform")
    if case.needs.cuda is None:
        return skipped("the lockfile contains no CUDA", source=case.facts.lock.source)
    return None


@_compatibility("driver-too-old", "Driver version for the lockfile's CUDA", required=True, row=6)
def _driver(case: Case) -> Judgement:
    """torch reports `The NVIDIA driver on your system is too old` and trains on the CPU."""
    return _graded(case, minor=False)


@_compatibility("driver-minor-older", "Driver version for PTX of the lockfile's CUDA", severity=Verdict.WARN, row=7)
def _minor(case: Case) -> Judgement:
    """An older driver can't compile PTX of a newer toolkit: `PTX was compiled with an unsupported toolchain`."""
    return _graded(case, minor=True)


def _graded(case: Case, *, minor: bool) -> Judgement:
    """Compare the driver with the locked CUDA: its major version, or (``minor``) its minor version."""
    needs, stop = case.needs, _without_cuda(case)
    if stop is not None or needs is None or needs.cuda is None:
        return stop or skipped(NO_LOCK)
    facts = read_limits(case.machine, needs.platform)
    if not facts.has_driver:
        return unknown(_UNKNOWN_DRIVER) if case.machine.gpus and case.silence is None else no_gpus(case)
    cuda = needs.cuda.version
    known = case.machine.source("driver.user_version") or case.machine.source("driver.kernel_version")
    judged = _judge_grade(cuda, needs.cuda.package, facts, minor=minor)
    command = case.explain if judged.verdict in (Verdict.FAIL, Verdict.WARN) else ""
    return replace(judged, source=sources(known, case.facts.lock.source), command=command)


def _judge_grade(cuda: Version, package: str, facts: MachineLimits, *, minor: bool) -> Judgement:
    served = f" (supports CUDA {facts.driver_cuda})" if facts.driver_cuda else ""
    found = f"NVIDIA driver {driver_text(facts.driver) if facts.driver else 'of unknown version'}{served}"
    grade = driver_grade(cuda, facts, matrix())
    locked = f"{found}; the lockfile contains CUDA {cuda} (`{package}`)"
    # one cause has one finding
    if isinstance(grade, Misfit):
        wanted = f"{grade.wanted}, for CUDA {cuda.major}"
        return skipped("see `driver-too-old`") if minor else failed(locked, wanted)
    if grade is Grade.UNVERIFIED and not facts.driver and not facts.driver_cuda:
        return unknown(_UNKNOWN_DRIVER)
    if minor and grade is Grade.MINOR_COMPATIBLE:
        words = f"{found}; CUDA {cuda} works through CUDA minor-version compatibility"
        return warned(words, f"NVIDIA driver {_direct(cuda, facts)} or newer")
    if minor and grade is Grade.UNVERIFIED:
        return info(f"{found}; the driver table has no row for CUDA {cuda}")
    return passed(locked)


def _direct(cuda: Version, facts: MachineLimits) -> str:
    row = matrix().direct_minimum(cuda)
    return driver_text(row.driver(windows=facts.windows_driver)) if row else "of that toolkit"


@_compatibility("no-kernel-for-gpu", "Kernels of the locked torch for each GPU", required=True, row=8)
def _kernels(case: Case) -> Iterator[Judgement]:
    """Without them, CUDA programs fail: `no kernel image is available for execution on the device`."""
    needs, stop, source = case.needs, _without_cuda(case), case.facts.lock.source
    if stop is not None or needs is None:
        yield stop or skipped(NO_LOCK)
    elif not needs.torch and not needs.capabilities:
        yield skipped("the lockfile has no torch", source)
    elif not needs.capabilities:
        yield info(f"the kernels of torch {needs.torch} are not in the build table", source=source)
    elif not case.machine.visible_gpus:
        yield no_gpus(case)
    else:
        source = sources("NVML nvmlDeviceGetCudaComputeCapability", source)
        for gpu in case.machine.visible_gpus:
            yield replace(_kernel(case, needs, gpu), subject=f"GPU {gpu.index}", source=source)


def _kernel(case: Case, needs: LockNeeds, gpu: Gpu) -> Judgement:
    # what the user states counts, as in the selection
    capability, build = case.machine.capability_override or gpu.compute_capability, _build(needs)
    if capability is None:
        return unknown(f"the compute capability of {gpu.name} is unknown")
    wanted = f"a kernel for {capability}"
    words = (
        f"{gpu.name} has compute capability {capability}; "
        f"torch {needs.torch} ({needs.tag}) contains kernels for {', '.join(map(str, needs.capabilities))}"
    )
    if has_cubin(build, capability, matrix()):
        return passed(words)
    if has_code(build, capability, matrix()):
        return warned(f"{words}; code for servers may run on this Tegra chip", wanted, command=case.explain)
    if not has_ptx(build, capability, matrix()):
        return failed(words, wanted, command=case.explain)
    facts = read_limits(case.machine, needs.platform)
    cuda = needs.cuda.version if needs.cuda else None
    if cuda is not None and driver_grade(cuda, facts, matrix()) is Grade.MINOR_COMPATIBLE:
        wanted += f", or a driver that can compile this PTX: {_direct(cuda, facts)} or newer"
        return failed(f"{words} and PTX, but this driver is too old to compile it", wanted, command=case.explain)
    words += ", and PTX that the driver compiles at the first start, which takes minutes"
    return warned(words, wanted, command=case.explain)


def _build(needs: LockNeeds) -> Build:
    """Return the build in the record; only its kernels are used."""
    return Build(
        torch=Version(needs.torch or "0"),
        tag=needs.tag or CPU,
        platform=needs.platform,
        pythons=(),
        capabilities=needs.capabilities,
        ptx=needs.ptx,
    )


@_compatibility("glibc-too-old", "glibc version", row=36)
def _glibc(case: Case) -> Judgement:
    """With an older glibc: `GLIBC_2.28 not found` or `not a supported wheel on this platform`."""
    needs, found, state = case.needs, case.machine.glibc, case.condition("no-glibc")
    source = sources(case.machine.source("glibc"), case.facts.lock.source)
    if not case.on_linux:
        return skipped("only Linux has glibc")
    if needs is None or needs.glibc is None:
        return skipped(NO_LOCK if needs is None else "the lockfile requires no glibc", source)
    wanted = f"glibc {needs.glibc.version} or newer, for `{needs.glibc.package}`"
    if state is not None:
        return failed(state.symptom, wanted, source, command=case.explain if case.described_as else "ldd --version")
    if found is None:
        return unknown("the glibc version is unknown", source=source)
    if found < needs.glibc.version:
        return failed(f"glibc {found}", wanted, source, command=case.explain)
    return passed(f"glibc {found}; `{needs.glibc.package}` requires {needs.glibc.version}", source=source)


@_compatibility("cpu-too-old", "CPU instruction sets", row=37)
def _cpu(case: Case) -> Judgement:
    """Packages built for newer CPUs crash with `Illegal instruction` on older ones."""
    signal = case.facts.system.cpu
    if not case.on_linux:
        return skipped("checked only on Linux", signal.source)
    if signal.value is None:
        return unread(signal)
    flags, name = set(signal.value.flags), signal.value.model or "the CPU"
    bf16 = f"bf16 in hardware: {', '.join(sorted(flags & set(cpu_level('bf16')))) or 'no'}"
    if case.machine.platform != "linux-64":
        return info(f"{name}; {bf16}", source=signal.source)
    lacks_v2 = [flag for flag in cpu_level("v2") if flag not in flags]
    lacks_v3 = [flag for flag in cpu_level("v3") if flag not in flags]
    if lacks_v2:
        words = f"{name} lacks {', '.join(lacks_v2)}, so programs crash with `Illegal instruction`"
        return failed(words, "x86-64-v2", signal.source, command="lscpu")
    if lacks_v3:
        words = f"{name} lacks {', '.join(lacks_v3)}: slow, and some wheels crash with `Illegal instruction`"
        return warned(words, "x86-64-v3", signal.source, command="lscpu")
    return passed(f"{name} supports x86-64-v3; {bf16}", source=signal.source)


@_compatibility("precision", "Best training precision", severity=Verdict.INFO)
def _precision(case: Case) -> Iterator[Judgement]:
    """bf16 is only emulated on GPUs such as T4 and V100, where it is slower than fp32."""
    # yield the precision for each GPU: bf16 from 8.0, fp16 with a GradScaler on 7.x, fp32 on older ones
    alike: dict[tuple[str, ComputeCapability], list[str]] = {}
    for gpu in case.machine.visible_gpus:
        if gpu.compute_capability is not None:
            alike.setdefault((gpu.name, gpu.compute_capability), []).append(str(gpu.index))
    if not alike:
        yield no_gpus(case) if not case.machine.gpus else skipped("no visible GPU has a known compute capability")
    for (name, capability), numbers in alike.items():
        words = next(words for least, words in _PRECISIONS if capability >= least)
        source = "NVML nvmlDeviceGetCudaComputeCapability"
        yield info(f"{name} ({capability}): {words}", source=source, subject=f"GPU {', '.join(numbers)}")
