"""Compare torch with the lockfile and the driver: its build, the GPUs that it finds, and its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from packaging.version import InvalidVersion, Version

from envforge.base.terms import ComputeCapability
from envforge.verify.environment.facts import EnvironmentFacts, LockedTorch, TorchFacts
from envforge.verify.findings import (
    info,
    on_environment,
    passed,
    repair_command,
    skipped,
    unknown,
    without_library_path,
)
from envforge.verify.judging import counted
from envforge.verify.values import Check, Judgement, Verdict

_TEGRA = ("5.3", "6.2", "7.2", "8.7")  # compute capabilities of Jetson chips
_NOT_IMPORTED = "torch was not imported: see `torch-import-failed`"


def _cpu_build(facts: EnvironmentFacts) -> Iterator[Judgement]:
    torch, locked = facts.torch.value, facts.locked.value
    if torch is None:
        yield skipped(_NOT_IMPORTED)
    elif locked is None:
        yield skipped(f"the locked torch is unknown: {facts.locked.unreadable}")
    elif locked.cuda is None:
        yield passed(f"torch {torch.version}; the lockfile contains a CPU build", source=facts.locked.source)
    elif torch.cuda is None and torch.hip is None:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"torch {torch.version} is a CPU build",
            wanted=f"torch {locked.version} for CUDA{f' {locked.cuda}' if locked.cuda else ''} (`{locked.build}`)",
            source=f"torch.version.cuda in {torch.file}; {facts.locked.source}",
            command=repair_command(facts),
        )
    else:
        yield passed(f"torch {torch.version} for CUDA {torch.cuda}", source=torch.file)


def _version(facts: EnvironmentFacts) -> Iterator[Judgement]:
    torch, locked = facts.torch.value, facts.locked.value
    if torch is None:
        yield skipped(_NOT_IMPORTED)
    elif locked is None:
        yield skipped(f"the locked torch is unknown: {facts.locked.unreadable}")
    elif wrong := _differences(torch, locked):
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"torch {torch.version}" + (f" for CUDA {torch.cuda}" if torch.cuda else ""),
            wanted=wrong,
            source=f"{torch.file}; {facts.locked.source}",
            command=repair_command(facts),
        )
    else:
        yield passed(f"torch {torch.version}", wanted=locked.version, source=f"{torch.file}; {facts.locked.source}")


def _differences(torch: TorchFacts, locked: LockedTorch) -> str:
    """Return the expected build if it differs; a CPU build instead of a CUDA build has its own check."""
    if _public(torch.version) != _public(locked.version):
        return f"torch {locked.version}"
    if locked.cuda and torch.cuda and torch.cuda != locked.cuda:
        return f"torch {locked.version} for CUDA {locked.cuda}"
    return ""


def _public(text: str) -> str:
    try:
        return Version(text).public
    except InvalidVersion:
        return text.split("+", 1)[0]


def _libraries(facts: EnvironmentFacts) -> Iterator[Judgement]:
    """Compare the loaded cuDNN and NCCL with the locked versions, if both are known."""
    torch, locked = facts.torch.value, facts.locked.value
    if torch is None or locked is None:
        yield skipped(_NOT_IMPORTED if torch is None else f"the locked torch is unknown: {facts.locked.unreadable}")
        return
    pairs = [(name, getattr(torch, name), locked.packages.get(name)) for name in ("cudnn", "nccl")]
    known = [(name, found, wanted) for name, found, wanted in pairs if found and wanted]
    if not known:
        yield skipped("neither cuDNN nor NCCL is both locked and loaded")
    for name, found, wanted in known:
        if _numbers(found)[:2] != _numbers(wanted)[:2]:
            yield Judgement(
                verdict=Verdict.WARN,
                observed=f"{name} {found} is loaded",
                wanted=f"{name} {wanted}",
                source=f"torch; {facts.locked.source}",
                subject=name,
                command=without_library_path(facts),
            )
        else:
            yield passed(f"{name} {found}", wanted=wanted, source="torch", subject=name)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _sees_none(facts: EnvironmentFacts) -> Iterator[Judgement]:
    torch, cuda = facts.torch.value, facts.cuda.value
    has_driver = facts.driver is not None and bool(facts.machine_gpus)
    wants_gpu = facts.locked.value is not None and facts.locked.value.cuda is not None
    if torch is None:
        yield skipped(_NOT_IMPORTED)
    elif cuda is None and torch.cuda is None:
        yield skipped("this torch is a CPU build")
    elif cuda is None:
        dead = facts.process is not None and not facts.process.is_good
        if dead:
            yield Judgement(
                verdict=Verdict.FAIL,
                observed=f"torch.cuda failed to start: {facts.cuda.unreadable}",
                wanted="a result of torch.cuda.is_available()",
                source=facts.cuda.source,
                command="envforge verify machine",
            )
        else:
            yield unknown(facts.cuda, "torch did not report its GPUs")
    elif cuda.available:
        names = ", ".join(gpu.name for gpu in cuda.gpus)
        yield passed(f"torch finds {counted(len(cuda.gpus), 'GPU')}: {names}", source="torch.cuda.is_available()")
    elif not has_driver and wants_gpu:
        yield _blind(facts, "no NVIDIA driver responds on this machine", "envforge verify machine")
    elif not has_driver:
        yield passed("no GPU, and none is required", source="torch.cuda.is_available()")
    elif torch.cuda is None and not wants_gpu and facts.locked.value is not None:
        yield info(f"the lockfile contains a CPU build of torch, although driver {facts.driver} reports {_gpus(facts)}")
    elif torch.cuda is None:
        yield _blind(facts, "this torch is a CPU build", repair_command(facts))
    else:
        said = "; ".join((*cuda.warnings, *([cuda.error] if cuda.error else []))) or "torch reports no reason"
        yield _blind(facts, said[:600], "envforge verify machine")


def _blind(facts: EnvironmentFacts, said: str, command: str) -> Judgement:
    has = f"{_gpus(facts)}, as reported by driver {facts.driver}" if facts.machine_gpus else "a GPU, as in the lockfile"
    return Judgement(
        verdict=Verdict.FAIL,
        observed=f"torch.cuda.is_available() is False: {said}",
        wanted=has,
        source=f"torch; {facts.driver_source or 'driver'}",
        command=command,
    )


def _gpus(facts: EnvironmentFacts) -> str:
    return ", ".join(gpu.name for gpu in facts.machine_gpus)


def _count(facts: EnvironmentFacts) -> Iterator[Judgement]:
    cuda = facts.cuda.value
    if cuda is None or not cuda.available:
        yield skipped("torch finds no GPU: see `torch-sees-no-gpu`")
    elif not facts.machine_gpus:
        yield unknown(facts.cuda, "the driver did not report the number of GPUs")
    elif len(cuda.gpus) != len(facts.machine_gpus):
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"torch finds {counted(len(cuda.gpus), 'GPU')}",
            wanted=f"{len(facts.machine_gpus)}: {_gpus(facts)}",
            source=f"torch.cuda.device_count(); {facts.driver_source}",
            command="envforge verify machine",
        )
    else:
        yield passed(counted(len(cuda.gpus), "GPU"), source=f"torch.cuda.device_count(); {facts.driver_source}")


def _arch(facts: EnvironmentFacts) -> Iterator[Judgement]:
    """Compare the kernels in this torch with each GPU that torch or, if it finds none, the driver reports."""
    torch = facts.torch.value
    if torch is None:
        yield skipped(_NOT_IMPORTED)
        return
    if torch.cuda is None:
        yield skipped("this torch is a CPU build")
        return
    seen = facts.cuda.value.gpus if facts.cuda.value is not None else ()
    gpus = [(gpu.index, gpu.name, gpu.capability) for gpu in seen]
    gpus = gpus or [(gpu.index, gpu.name, gpu.capability or "") for gpu in facts.machine_gpus]
    if not gpus:
        yield skipped("no GPU")
    for index, name, capability in gpus:
        subject = f"GPU {index} {name}"
        if not torch.arch_list or not capability:
            missing = "torch's list of kernels" if capability else "the compute capability of the GPU"
            yield Judgement(verdict=Verdict.UNKNOWN, observed=f"{missing} is unknown", subject=subject)
        elif serves(torch.arch_list, ComputeCapability.parse(capability)):
            yield passed(f"compute capability {capability}", wanted=" ".join(torch.arch_list), subject=subject)
        else:
            yield Judgement(
                verdict=Verdict.FAIL,
                observed=f"compute capability {capability}; torch {torch.version} contains {' '.join(torch.arch_list)}",
                wanted=f"a kernel for sm_{capability.replace('.', '')}",
                source="torch.cuda.get_arch_list()",
                subject=subject,
                command="envforge explain",
            )


def serves(arch_list: tuple[str, ...], capability: ComputeCapability) -> bool:
    """Return whether a build has a kernel for a GPU: same major version and no higher minor, or PTX of at most that.

    Source: CUDA C++ programming guide, binary and PTX compatibility. Jetson chips run only their own code; ``sm_90a``
    runs only on 9.0.
    """
    for entry in arch_list:
        kind, _, digits = entry.partition("_")
        number = digits.rstrip("af")
        if not number.isdigit() or len(number) < 2:
            continue
        built = ComputeCapability(int(number[:-1]), int(number[-1]))
        if str(capability) in _TEGRA or str(built) in _TEGRA or digits.endswith("a"):
            fits = built == capability
        elif kind == "compute":
            fits = built <= capability
        else:
            fits = built.major == capability.major and built.minor <= capability.minor
        if fits:
            return True
    return False


def _toolchain(facts: EnvironmentFacts) -> Iterator[Judgement]:
    tools, torch = facts.toolchain.value, facts.torch.value
    if tools is None:
        yield skipped(f"nothing was imported: {facts.toolchain.unreadable}")
        return
    needed = {"a C compiler (cc, gcc or clang)": tools.compiler, "Python.h": tools.python_header}
    if torch is not None and torch.cuda is not None:
        needed["triton"] = tools.triton
    missing = [name for name, found in needed.items() if found is None]
    if missing:
        yield Judgement(
            verdict=Verdict.WARN,
            observed=f"missing: {', '.join(missing)}",
            wanted=", ".join(needed),
            source=facts.toolchain.source,
            command=_toolchain_command(facts, missing),
        )
    else:
        yield passed(f"{tools.compiler}, Python.h" + (", triton" if tools.triton else ""))


def _toolchain_command(facts: EnvironmentFacts, missing: Sequence[str]) -> str:
    if list(missing) == ["triton"]:
        return repair_command(facts)
    platform = facts.platform if facts.platform.startswith("linux-") else "linux-64"
    return f"envforge add gcc_{platform} gxx_{platform}"


CHECKS = (
    Check(
        id="cpu-build-in-gpu-lock",
        question="environment",
        group="libraries",
        title="CUDA or CPU build of torch",
        why="A later `pip install` can replace the CUDA build with a CPU build, without a message.",
        severity=Verdict.FAIL,
        judge=on_environment(_cpu_build),
        row=10,
    ),
    Check(
        id="torch-version",
        question="environment",
        group="libraries",
        title="Version of the imported torch",
        why="The imported version is what runs, whatever the package manager's records contain.",
        severity=Verdict.FAIL,
        judge=on_environment(_version),
        row=38,
    ),
    Check(
        id="library-versions",
        question="environment",
        group="libraries",
        title="Versions of cuDNN and NCCL",
        why="Other versions can be slower, return slightly different results, or fail to start.",
        severity=Verdict.WARN,
        judge=on_environment(_libraries),
        row=32,
    ),
    Check(
        id="torch-sees-no-gpu",
        question="environment",
        group="libraries",
        title="GPU availability in torch",
        why="Without a GPU in torch, training runs on the CPU, tens of times slower, mostly without an error.",
        severity=Verdict.FAIL,
        judge=on_environment(_sees_none),
        required=True,
    ),
    Check(
        id="torch-gpu-count",
        question="environment",
        group="libraries",
        title="Number of GPUs in torch",
        why="A GPU that is missing in torch has failed, is hidden, or is partitioned.",
        severity=Verdict.FAIL,
        judge=on_environment(_count),
        row=15,
    ),
    Check(
        id="arch-not-in-torch",
        question="environment",
        group="libraries",
        title="Kernels of the installed torch for each GPU",
        why="Without a kernel for the GPU: `CUDA error: no kernel image is available for execution on the device`.",
        severity=Verdict.FAIL,
        judge=on_environment(_arch),
        row=8,
    ),
    Check(
        id="compile-toolchain",
        question="environment",
        group="libraries",
        title="Toolchain for torch.compile",
        why="torch.compile compiles code at run time: `Failed to find C compiler`, `cannot find -lcuda`.",
        severity=Verdict.WARN,
        judge=on_environment(_toolchain),
        cost="deep",
        row=48,
    ),
)
