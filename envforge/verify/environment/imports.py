"""Check what Python imports and loads: torch and its libraries from this environment, and a compatible NumPy."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.base.redact import quoted
from envforge.verify.environment.facts import NOT_FOUND, EnvironmentFacts, PythonFacts
from envforge.verify.findings import (
    on_environment,
    passed,
    repair_command,
    skipped,
    unknown,
    with_prefix,
    without_library_path,
)
from envforge.verify.values import Check, Judgement, Verdict

_OPENMP = ("libgomp", "libiomp5", "libomp")
_CUDA_LIBRARIES = (
    "libcudnn", "libcublas", "libnccl", "libnvrtc", "libnvJitLink", "libcudart", "libcusparse", "libcusolver",
    "libcufft", "libcurand", "libtorch", "libc10",
)  # fmt: skip
_IGNORE_PYTHONPATH = "unset PYTHONPATH"
_IGNORE_USER_SITE = "export PYTHONNOUSERSITE=1"
_INVISIBLE = "nothing was imported"


def _torch(facts: EnvironmentFacts) -> Iterator[Judgement]:
    torch = facts.torch.value
    if facts.process is None:
        yield skipped(f"{_INVISIBLE}: {facts.torch.unreadable}")
        return
    if torch is not None:
        yield passed(f"torch {torch.version} in {torch.seconds:.1f} s", source=torch.file)
        return
    if facts.python.value is None:
        observed = f"Python failed to start: {facts.torch.unreadable}"
    else:
        observed = f"`import torch` failed: {facts.torch.unreadable}"
    yield Judgement(
        verdict=Verdict.FAIL,
        observed=observed[:1500],
        wanted="a successful `import torch`",
        source=facts.torch.source,
        why=_meaning(facts),
        command=repair_command(facts),
    )


def _meaning(facts: EnvironmentFacts) -> str:
    """Return the known reason for this kind of failure."""
    end, text = facts.process, facts.torch.unreadable or ""
    if end is not None and end.signal == "SIGILL":
        return "SIGILL: a library was built for a newer CPU (x86-64-v3, AVX-512)."
    if end is not None and end.signal in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        return f"{end.signal}: usually a library of another build, or two OpenMP runtimes in one process."
    if end is not None and end.exit_code is None:
        return "The import hangs: the driver or a file system doesn't respond."
    if "undefined symbol" in text or "nvJitLink" in text:
        return "LD_LIBRARY_PATH or LD_PRELOAD loads a CUDA library of another version before the environment's own."
    return ""


def _isolation(facts: EnvironmentFacts) -> Iterator[Judgement]:
    python, isolated = facts.python.value, facts.isolated_torch.value
    if facts.process is None:
        yield skipped(f"{_INVISIBLE}: {facts.python.unreadable}")
    elif python is None:
        yield unknown(facts.python, "Python did not report its import paths")
    elif python.torch_origin is not None and python.torch_origin != isolated:
        cause, command = _shadowed_by(python, python.torch_origin)
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"`import torch` imports `{python.torch_origin}` because of {cause}",
            wanted=f"torch of the environment: {isolated or 'it has none'}",
            source=facts.python.source,
            command=command,
        )
    elif stray := _stray_places(python):
        yield Judgement(
            verdict=Verdict.WARN,
            observed="Python also imports from " + ", ".join(f"`{place}`" for place in stray),
            wanted="imports only from the environment",
            source=facts.python.source,
            command=_IGNORE_PYTHONPATH if python.user_site is None else f"{_IGNORE_PYTHONPATH}; {_IGNORE_USER_SITE}",
        )
    elif python.outside:
        yield Judgement(
            verdict=Verdict.INFO,
            observed="Python also imports from " + ", ".join(f"`{place}`" for place in python.outside),
            wanted="imports only from the environment and from editable installs (`pip install -e`)",
            source=facts.python.source,
        )
    else:
        yield passed(f"Python {python.version} imports only from its own environment", source=facts.python.source)


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


def _outside(facts: EnvironmentFacts) -> Iterator[Judgement]:
    libraries = facts.libraries.value
    if libraries is None:
        yield _unread(facts, "the loaded libraries are unknown")
        return
    outside = [library for library in libraries if not library.inside and library.family in _CUDA_LIBRARIES]
    for library in outside:
        added_by = _added_by(facts, library.path)
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"`{library.path}` is loaded" + (f", because `{added_by}` adds its directory" if added_by else ""),
            wanted=f"{library.family} of the environment `{facts.prefix}`",
            source="/proc/self/maps after import torch",
            subject=library.family,
            command=f"find {quoted(facts.prefix or '.')} -name {quoted(added_by)}"
            if added_by
            else without_library_path(facts),
        )
    if not outside:
        yield passed(
            f"{len(libraries)} libraries, all from this environment", source="/proc/self/maps after import torch"
        )


def _added_by(facts: EnvironmentFacts, path: str) -> str:
    """Return the ``.pth`` file that makes Python import from the directory of a library; empty if there is none."""
    entries = facts.python.value.pth if facts.python.value is not None else ()
    named = (entry.partition(": ") for entry in entries)
    return next((name for name, _, folder in named if folder and path.startswith(folder.rstrip("/") + "/")), "")


def _openmp(facts: EnvironmentFacts) -> Iterator[Judgement]:
    libraries = facts.libraries.value
    if libraries is None:
        yield skipped(f"the loaded libraries are unknown: {facts.libraries.unreadable}")
        return
    runtimes = [library for library in libraries if library.family in _OPENMP]
    if len({library.path for library in runtimes}) > 1:
        yield Judgement(
            verdict=Verdict.WARN,
            observed=f"{len(runtimes)} OpenMP runtimes in one process: " + ", ".join(f"`{r.path}`" for r in runtimes),
            wanted="one OpenMP runtime",
            source="/proc/self/maps after import torch",
            command=with_prefix("envforge audit", facts),
        )
    else:
        yield passed(f"OpenMP: {runtimes[0].path if runtimes else 'none'}", source="/proc/self/maps after import torch")


def _numpy(facts: EnvironmentFacts) -> Iterator[Judgement]:
    numpy, torch = facts.numpy.value, facts.torch.value
    if torch is None:
        yield skipped("torch was not imported: see `torch-import-failed`")
        return
    complaint = next((text for text in torch.warnings if "umpy" in text or "ARRAY_API" in text), None)
    if numpy is None and facts.numpy.unreadable == NOT_FOUND and complaint is None:
        yield skipped("the environment has no NumPy")
    elif numpy is None:
        yield unknown(facts.numpy, "NumPy was not tested")
    elif not numpy.works or complaint is not None:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"NumPy {numpy.version} and torch {torch.version} are not compatible: {numpy.error or complaint}",
            wanted="conversion of an array to a tensor and back",
            source=facts.numpy.source,
            command=repair_command(facts),
        )
    else:
        yield passed(f"NumPy {numpy.version}: an array was converted to a tensor and back", source=facts.numpy.source)


def _unread(facts: EnvironmentFacts, what: str) -> Judgement:
    if facts.torch.value is None:
        return skipped("torch was not imported: see `torch-import-failed`")
    return unknown(facts.libraries, what)


CHECKS = (
    Check(
        id="torch-import-failed",
        question="environment",
        group="libraries",
        title="Import of torch",
        why="Training requires `import torch`. A crash during the import terminates the interpreter.",
        severity=Verdict.FAIL,
        judge=on_environment(_torch),
        required=True,
    ),
    Check(
        id="import-isolation",
        question="environment",
        group="libraries",
        title="Directories that Python imports from",
        why="PYTHONPATH, the user's site-packages, or a file named torch.py can shadow the installed torch.",
        severity=Verdict.FAIL,
        judge=on_environment(_isolation),
        row=40,
    ),
    Check(
        id="library-from-outside",
        question="environment",
        group="libraries",
        title="Origin of CUDA and torch libraries",
        why="Another version of cuDNN or cuBLAS causes undefined symbols, or different results without an error.",
        severity=Verdict.FAIL,
        judge=on_environment(_outside),
        row=32,
    ),
    Check(
        id="openmp-twice",
        question="environment",
        group="libraries",
        title="OpenMP runtimes in the process",
        why="Two runtimes compete for threads: slow runs, `OMP: Error #15`, or crashes.",
        severity=Verdict.WARN,
        judge=on_environment(_openmp),
        row=34,
    ),
    Check(
        id="numpy-abi",
        question="environment",
        group="libraries",
        title="Compatibility of NumPy and torch",
        why="A torch built for NumPy 1 can't use arrays of NumPy 2, and fails only at the first array.",
        severity=Verdict.FAIL,
        judge=on_environment(_numpy),
        row=35,
    ),
)
