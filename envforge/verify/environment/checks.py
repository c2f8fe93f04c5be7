"""Check that the environment is complete and matches its lockfile, and check the torch that its Python imports.

The checks of torch are about its libraries, its build, the GPUs that it finds, and its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from msgspec import Struct
from packaging.version import Version

from envforge.base.redact import quoted
from envforge.base.terms import CPU, ComputeCapability, WheelTag
from envforge.pytorch.fit import has_code, has_ptx
from envforge.pytorch.matrix import Build
from envforge.verify.environment.facts import AuditDifference, EnvironmentFacts, LockedTorch, PythonFacts, TorchFacts
from envforge.verify.judging import check, counted, facts_of, failed, info, passed, skipped, unknown, unread, warned
from envforge.verify.machine.reference_data import matrix
from envforge.verify.values import Judgement, Verdict

_FILES = ("file-changed", "file-missing", "file-stray")
_SHOWN = 3
_IGNORE_PYTHONPATH = "unset PYTHONPATH"
_IGNORE_USER_SITE = "export PYTHONNOUSERSITE=1"

ENVIRONMENT = facts_of("environment")

_packages = partial(check, of=ENVIRONMENT, group="packages")
_audited_packages = partial(_packages, cost="default", needs=("audit",))
_check = partial(check, group="libraries", needs=("python",))


@_packages("environment-missing", "State of the environment")
def _missing(facts: EnvironmentFacts) -> Judgement:
    """An interrupted installation leaves an environment in which some packages work and others fail."""
    if facts.state == "finished":
        return passed(facts.state_text)
    if facts.state in ("foreign", "virtual"):
        return info(facts.state_text)
    if facts.state == "none":
        return skipped(facts.state_text)
    command = facts.with_prefix("envforge install")
    return failed(facts.state_text, "a complete environment", facts.prefix or "", command=command)


@_audited_packages("environment-drift", "Packages compared with the lockfile", row=38)
def _drift(facts: EnvironmentFacts) -> Judgement:
    """If a package differs from the lockfile, no other machine can reproduce the results."""
    # `files-changed` and `packages-twice` report the others
    found = [item for item in _all(facts) if not item.kind.startswith("file-") and item.kind != "owned-twice"]
    return _audited(facts, found, "every package as in the lockfile")


@_audited_packages("files-changed", "Files compared with their packages", row=39)
def _files(facts: EnvironmentFacts) -> Judgement:
    """A file changed after installation is different code under the same version. `pip check` can't detect it."""
    return _audited(facts, [item for item in _all(facts) if item.kind in _FILES], "every file as in its package")


def _all(facts: EnvironmentFacts) -> tuple[AuditDifference, ...]:
    return facts.audit.value.drift if facts.audit.value is not None else ()


def _audited(facts: EnvironmentFacts, found: list[AuditDifference], wanted: str) -> Judgement:
    audit, source = facts.audit.value, facts.audit.source
    if facts.state == "virtual":
        return skipped(f"{facts.state_text}: only conda and envforge environments can be audited")
    if facts.state not in ("finished", "foreign"):
        return skipped(f"nothing to compare: {facts.state_text}")
    if audit is None and facts.state == "foreign" and facts.locked.value is None:
        return skipped(f"{facts.state_text}, and there is no lockfile to compare it with")
    if audit is None:
        command = facts.with_prefix("envforge audit")
        return unread(facts.audit, "the environment could not be audited", command=command)
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        words = "; ".join(item.text for item in found[:_SHOWN]) + more
        return failed(words, f"{wanted} (`{audit.lockfile}`)", source, command=facts.repair_command)
    total = f"{counted(audit.packages, 'package')} and {counted(audit.files, 'file')}, digest {audit.digest[:12]}"
    return passed(total, wanted, source)


@_audited_packages("packages-twice", "Libraries owned by both conda and pip", severity=Verdict.WARN, row=34)
def _twice(facts: EnvironmentFacts) -> Iterator[Judgement]:
    """Two owners overwrite each other's files, so the version depends on which was installed last."""
    audit, source = facts.audit.value, facts.audit.source
    if audit is None:
        yield skipped("the environment was not audited: see `environment-drift`")
        return
    found = [item for item in (*audit.drift, *audit.warnings) if item.kind == "owned-twice"]
    if not found:
        yield passed("no library is owned by both conda and pip", source=source)
    for item in found:
        command = facts.repair_command
        yield warned(item.text, "one owner for each library", source, subject=item.package, command=command)


@_check("torch-import-failed", "Import of torch", of=ENVIRONMENT, required=True)
def _import(facts: EnvironmentFacts) -> Judgement:
    """Training requires `import torch`. A crash during the import terminates the interpreter."""
    torch, reason = facts.torch.value, facts.torch.unreadable
    if facts.process is None:
        return skipped(f"nothing was imported: {reason}")
    if torch is not None:
        return passed(f"torch {torch.version} in {torch.seconds:.1f} s", source=torch.file)
    observed = f"`import torch` failed: {reason}" if facts.python.value else f"Python failed to start: {reason}"
    return failed(
        observed[:1500],
        "a successful `import torch`",
        facts.torch.source,
        why=_meaning(facts),
        command=facts.repair_command,
    )


def _meaning(facts: EnvironmentFacts) -> str:
    """Return the known reason for this kind of failure."""
    end = facts.process
    if end is not None and end.signal == "SIGILL":
        return "SIGILL: a library was built for a newer CPU (x86-64-v3, AVX-512)."
    if end is not None and end.signal in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        return f"{end.signal}: usually a library of another build, or two OpenMP runtimes in one process."
    if end is not None and end.exit_code is None:
        return "The import hangs: the driver or a file system doesn't respond."
    if facts.torch.code == "undefined-symbol":
        return "LD_LIBRARY_PATH or LD_PRELOAD loads a CUDA library of another version before the environment's own."
    return ""


@_check("import-isolation", "Directories that Python imports from", of=ENVIRONMENT, row=40)
def _isolation(facts: EnvironmentFacts) -> Judgement:
    """PYTHONPATH, the user's site-packages, or a file named torch.py can shadow the installed torch."""
    python, isolated, source = facts.python.value, facts.isolated_torch.value, facts.python.source
    if facts.process is None:
        return skipped(f"nothing was imported: {facts.python.unreadable}")
    if python is None:
        return unread(facts.python, "Python did not report its import paths")
    if python.torch_origin is not None and python.torch_origin != isolated:
        cause, command = _shadowed_by(python, python.torch_origin)
        words = f"`import torch` imports `{python.torch_origin}` because of {cause}"
        return failed(words, f"torch of the environment: {isolated or 'it has none'}", source, command=command)
    if stray := _stray_places(python):
        words = "Python also imports from " + ", ".join(f"`{place}`" for place in stray)
        command = _IGNORE_PYTHONPATH if python.user_site is None else f"{_IGNORE_PYTHONPATH}; {_IGNORE_USER_SITE}"
        return warned(words, "imports only from the environment", source, command=command)
    if python.outside:
        words = "Python also imports from " + ", ".join(f"`{place}`" for place in python.outside)
        return info(words, "imports only from the environment and from editable installs (`pip install -e`)", source)
    return passed(f"Python {python.version} imports only from its own environment", source=source)


def _shadowed_by(python: PythonFacts, origin: str) -> tuple[str, str]:
    """Return what makes Python import another torch, and the command that shows or removes it."""
    if python.user_site is not None and origin.startswith(python.user_site):
        return "the user's site-packages", _IGNORE_USER_SITE
    if python.python_path:
        return "PYTHONPATH", _IGNORE_PYTHONPATH
    return "the current directory", f"ls -l {quoted(origin)}"


def _stray_places(python: PythonFacts) -> list[str]:
    """Return import directories that no ``.pth`` file adds, such as PYTHONPATH and the user's site-packages."""
    added = {entry.partition(": ")[2] for entry in python.pth}
    places = (*(place for place in python.outside if place not in added), python.user_site)
    return [place for place in dict.fromkeys(places) if place is not None]


_OPENMP = ("libgomp", "libiomp5", "libomp")
_MAPS = "/proc/self/maps after import torch"


class TorchCase(Struct, frozen=True, kw_only=True):
    """An environment whose torch was imported."""

    facts: EnvironmentFacts
    torch: TorchFacts


def _with_torch(facts: EnvironmentFacts) -> TorchCase | Judgement:
    if facts.torch.value is None:
        return skipped("torch was not imported: see `torch-import-failed`")
    return TorchCase(facts=facts, torch=facts.torch.value)


TORCH = ENVIRONMENT.part(_with_torch)
"""The environment, for checks that are skipped if torch was not imported."""


@_check("library-from-outside", "Origin of CUDA and torch libraries", of=TORCH, row=32)
def _outside(case: TorchCase) -> Iterator[Judgement]:
    """Another version of cuDNN or cuBLAS causes undefined symbols, or different results without an error."""
    facts, libraries = case.facts, case.facts.libraries.value
    if libraries is None:
        yield unread(facts.libraries, "the loaded libraries are unknown")
        return
    outside = [library for library in libraries if not library.inside and library.family not in (*_OPENMP, "libmkl")]
    for library in outside:
        words, command = f"`{library.path}` is loaded", facts.command_without_library_path
        if added_by := _added_by(facts, library.path):
            words += f", because `{added_by}` adds its directory"
            command = f"find {quoted(facts.prefix or '.')} -name {quoted(added_by)}"
        wanted = f"{library.family} of the environment `{facts.prefix}`"
        yield failed(words, wanted, _MAPS, subject=library.family, command=command)
    if not outside:
        yield passed(f"{len(libraries)} libraries, all from this environment", source=_MAPS)


def _added_by(facts: EnvironmentFacts, path: str) -> str:
    """Return the ``.pth`` file that makes Python import from the directory of a library; empty if there is none."""
    entries = facts.python.value.pth if facts.python.value is not None else ()
    named = (entry.partition(": ") for entry in entries)
    return next((name for name, _, folder in named if folder and path.startswith(folder.rstrip("/") + "/")), "")


@_check("openmp-twice", "OpenMP runtimes in the process", of=TORCH, severity=Verdict.WARN, row=34)
def _openmp(case: TorchCase) -> Judgement:
    """Two runtimes compete for threads: slow runs, `OMP: Error #15`, or crashes."""
    libraries = case.facts.libraries.value
    if libraries is None:
        return skipped(f"the loaded libraries are unknown: {case.facts.libraries.unreadable}")
    runtimes = [library for library in libraries if library.family in _OPENMP]
    if len({library.path for library in runtimes}) > 1:
        words = f"{len(runtimes)} OpenMP runtimes in one process: " + ", ".join(f"`{r.path}`" for r in runtimes)
        return warned(words, "one OpenMP runtime", _MAPS, command=case.facts.with_prefix("envforge audit"))
    return passed(f"OpenMP: {runtimes[0].path if runtimes else 'none'}", source=_MAPS)


@_check("numpy-abi", "Compatibility of NumPy and torch", of=TORCH, row=35)
def _numpy(case: TorchCase) -> Judgement:
    """A torch built for NumPy 1 can't use arrays of NumPy 2, and fails only at the first array."""
    signal, torch = case.facts.numpy, case.torch
    numpy, complaint = signal.value, torch.numpy_warning
    if numpy is None and signal.code == "not-found" and complaint is None:
        return skipped("the environment has no NumPy")
    if numpy is None:
        return unread(signal, "NumPy was not tested")
    if not numpy.works or complaint is not None:
        words = f"NumPy {numpy.version} and torch {torch.version} are not compatible: {numpy.error or complaint}"
        wanted = "conversion of an array to a tensor and back"
        return failed(words, wanted, signal.source, command=case.facts.repair_command)
    return passed(f"NumPy {numpy.version}: an array was converted to a tensor and back", source=signal.source)


@_check("cpu-build-in-gpu-lock", "CUDA or CPU build of torch", of=TORCH, row=10)
def _cpu_build(case: TorchCase) -> Judgement:
    """A later `pip install` can replace the CUDA build with a CPU build, without a message."""
    torch, locked, source = case.torch, case.facts.locked.value, case.facts.locked.source
    if locked is None:
        return _not_locked(case)
    if locked.cuda is None:
        return passed(f"torch {torch.version}; the lockfile contains a CPU build", source=source)
    if torch.cuda is None and torch.hip is None:
        wanted = f"torch {locked.version} for CUDA{f' {locked.cuda}' if locked.cuda else ''} (`{locked.build}`)"
        source = f"torch.version.cuda in {torch.file}; {source}"
        return failed(f"torch {torch.version} is a CPU build", wanted, source, command=case.facts.repair_command)
    return passed(f"torch {torch.version} for CUDA {torch.cuda}", source=torch.file)


def _not_locked(case: TorchCase) -> Judgement:
    return skipped(f"the locked torch is unknown: {case.facts.locked.unreadable}")


@_check("torch-version", "Version of the imported torch", of=TORCH, row=38)
def _version(case: TorchCase) -> Judgement:
    """The imported version is what runs, whatever the package manager's records contain."""
    torch, locked = case.torch, case.facts.locked.value
    source = f"{torch.file}; {case.facts.locked.source}"
    if locked is None:
        return _not_locked(case)
    if wanted := _difference(torch, locked):
        words = f"torch {torch.version}" + (f" for CUDA {torch.cuda}" if torch.cuda else "")
        return failed(words, wanted, source, command=case.facts.repair_command)
    return passed(f"torch {torch.version}", locked.version, source)


def _difference(torch: TorchFacts, locked: LockedTorch) -> str:
    """Return the expected build if it differs; a CPU build instead of a CUDA build has its own check."""
    if _public(torch.version) != _public(locked.version):
        return f"torch {locked.version}"
    if locked.cuda and torch.cuda and torch.cuda != locked.cuda:
        return f"torch {locked.version} for CUDA {locked.cuda}"
    return ""


def _public(text: str) -> str:
    try:
        return Version(text).public
    except ValueError:
        return text.split("+", 1)[0]


@_check("library-versions", "Versions of cuDNN and NCCL", of=TORCH, severity=Verdict.WARN, row=32)
def _libraries(case: TorchCase) -> Iterator[Judgement]:
    """Other versions can be slower, return slightly different results, or fail to start."""
    # compare the loaded cuDNN and NCCL with the locked versions, if both are known
    locked = case.facts.locked.value
    if locked is None:
        yield _not_locked(case)
        return
    pairs = (("cudnn", case.torch.cudnn), ("nccl", case.torch.nccl))
    known = [(name, found, wanted) for name, found in pairs if found and (wanted := locked.packages.get(name))]
    if not known:
        yield skipped("neither cuDNN nor NCCL is both locked and loaded")
    for name, found, wanted in known:
        if _numbers(found)[:2] == _numbers(wanted)[:2]:
            yield passed(f"{name} {found}", wanted, "torch", subject=name)
        else:
            source, command = f"torch; {case.facts.locked.source}", case.facts.command_without_library_path
            yield warned(f"{name} {found} is loaded", f"{name} {wanted}", source, subject=name, command=command)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


@_check("torch-sees-no-gpu", "GPU availability in torch", of=TORCH, required=True)
def _sees_none(case: TorchCase) -> Judgement:
    """Without a GPU in torch, training runs on the CPU, tens of times slower, mostly without an error."""
    facts, torch, cuda = case.facts, case.torch, case.facts.cuda.value
    if cuda is None and torch.cuda is None:
        return skipped("this torch is a CPU build")
    if cuda is None and facts.process is not None and not facts.process.is_good:
        words, wanted = f"torch.cuda failed to start: {facts.cuda.unreadable}", "a result of torch.cuda.is_available()"
        return failed(words, wanted, facts.cuda.source, command="envforge verify machine")
    if cuda is None:
        return unread(facts.cuda, "torch did not report its GPUs")
    if cuda.available:
        names = ", ".join(gpu.name for gpu in cuda.gpus)
        return passed(f"torch finds {counted(len(cuda.gpus), 'GPU')}: {names}", source="torch.cuda.is_available()")
    said = "; ".join((*cuda.warnings, *([cuda.error] if cuda.error else []))) or "torch reports no reason"
    return _blind(case, said[:600])


def _blind(case: TorchCase, said: str) -> Judgement:
    """Judge a torch that finds no GPU; ``said`` is its own reason."""
    facts, locked = case.facts, case.facts.locked.value
    wants_gpu = locked is not None and locked.cuda is not None
    gpus, command = ", ".join(gpu.name for gpu in facts.machine_gpus), "envforge verify machine"
    if facts.driver is None or not facts.machine_gpus:
        if not wants_gpu:
            return passed("no GPU, and none is required", source="torch.cuda.is_available()")
        said = "no NVIDIA driver responds on this machine"
    elif case.torch.cuda is None:
        if locked is not None and not wants_gpu:
            return info(f"the lockfile contains a CPU build of torch, although driver {facts.driver} reports {gpus}")
        said, command = "this torch is a CPU build", facts.repair_command
    wanted = f"{gpus}, as reported by driver {facts.driver}" if gpus else "a GPU, as in the lockfile"
    source = f"torch; {facts.driver_source or 'driver'}"
    return failed(f"torch.cuda.is_available() is False: {said}", wanted, source, command=command)


@_check("torch-gpu-count", "Number of GPUs in torch", of=ENVIRONMENT, row=15)
def _count(facts: EnvironmentFacts) -> Judgement:
    """A GPU that is missing in torch has failed, is hidden, or is partitioned."""
    cuda, source = facts.cuda.value, f"torch.cuda.device_count(); {facts.driver_source}"
    if cuda is None or not cuda.available:
        return skipped("torch finds no GPU: see `torch-sees-no-gpu`")
    if not facts.machine_gpus:
        return unknown("the driver did not report the number of GPUs", source=facts.driver_source)
    if len(cuda.gpus) != len(facts.machine_gpus):
        wanted = f"{len(facts.machine_gpus)}: {', '.join(gpu.name for gpu in facts.machine_gpus)}"
        words = f"torch finds {counted(len(cuda.gpus), 'GPU')}"
        return failed(words, wanted, source, command="envforge verify machine")
    return passed(counted(len(cuda.gpus), "GPU"), source=source)


@_check("arch-not-in-torch", "Kernels of the installed torch for each GPU", of=TORCH, row=8)
def _arch(case: TorchCase) -> Iterator[Judgement]:
    """Without a kernel for the GPU: `CUDA error: no kernel image is available for execution on the device`."""
    # compare the kernels in this torch with each GPU that torch or, if it finds none, the driver reports
    if case.torch.cuda is None:
        yield skipped("this torch is a CPU build")
        return
    # torch has its own order of GPUs, in which `cuda:0` may be another GPU than in nvidia-smi
    seen = case.facts.cuda.value.gpus if case.facts.cuda.value is not None else ()
    gpus = seen or case.facts.machine_gpus
    if not gpus:
        yield skipped("no GPU")
    for gpu in gpus:
        yield _kernels(case, gpu.capability, subject=f"GPU {gpu.index} {gpu.name}")


def _kernels(case: TorchCase, capability: str | None, subject: str) -> Judgement:
    torch, kernels = case.torch, " ".join(case.torch.arch_list)
    if not torch.arch_list or not capability:
        missing = "torch's list of kernels" if capability else "the compute capability of the GPU"
        return unknown(f"{missing} is unknown", subject=subject)
    if supports(torch, case.facts.platform, ComputeCapability.parse(capability)):
        return passed(f"compute capability {capability}", kernels, subject=subject)
    return failed(
        f"compute capability {capability}; torch {torch.version} contains {kernels}",
        f"a kernel for sm_{capability.replace('.', '')}",
        "torch.cuda.get_arch_list()",
        subject=subject,
        command="envforge explain",
    )


def supports(torch: TorchFacts, platform: str, capability: ComputeCapability) -> bool:
    """Return whether an imported torch has a kernel for a GPU, or PTX for it, by the rules of ``pytorch.fit``."""
    kernels: dict[str, list[ComputeCapability]] = {"sm": [], "compute": []}
    for entry in torch.arch_list:
        kind, _, digits = entry.partition("_")
        # `a` and `f` are architecture- and family-specific code
        number = digits.rstrip("af")
        if kind in kernels and number.isdigit() and len(number) > 1:
            built = ComputeCapability(int(number[:-1]), int(number[-1]))
            if not digits.endswith("a") or built == capability:  # `sm_90a` runs only on 9.0
                kernels[kind].append(built)
    build = Build(
        torch=Version("0"),  # only the kernels matter, and on Tegra the CUDA version
        tag=WheelTag(Version(torch.cuda)) if torch.cuda else CPU,
        platform=platform,
        pythons=(),
        capabilities=tuple(kernels["sm"]),
        ptx=tuple(kernels["compute"]),
    )
    return has_code(build, capability, matrix()) or has_ptx(build, capability, matrix())


@_check("compile-toolchain", "Toolchain for torch.compile", of=ENVIRONMENT, severity=Verdict.WARN, cost="deep", row=48)
def _toolchain(facts: EnvironmentFacts) -> Judgement:
    """torch.compile compiles code at run time: `Failed to find C compiler`, `cannot find -lcuda`."""
    tools, torch, source = facts.toolchain.value, facts.torch.value, facts.toolchain.source
    if tools is None:
        return skipped(f"nothing was imported: {facts.toolchain.unreadable}")
    needed = {"a C compiler (cc, gcc or clang)": tools.compiler, "Python.h": tools.python_header}
    if torch is not None and torch.cuda is not None:
        needed["triton"] = tools.triton
    missing = [name for name, found in needed.items() if found is None]
    if not missing:
        return passed(f"{tools.compiler}, Python.h" + (", triton" if tools.triton else ""))
    platform = facts.platform if facts.platform.startswith("linux-") else "linux-64"
    command = facts.repair_command if missing == ["triton"] else f"envforge add gcc_{platform} gxx_{platform}"
    return warned(f"missing: {', '.join(missing)}", ", ".join(needed), source, command=command)
