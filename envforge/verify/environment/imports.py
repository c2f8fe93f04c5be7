"""Checks of what Python imports and maps: torch from here, its libraries from here, NumPy that fits. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.environment.facts import EnvironmentFacts, PythonFacts
from envforge.verify.environment.say import on_environment, passed, skipped, unknown, with_prefix
from envforge.verify.values import Check, Judgement, Verdict

_OPENMP = ("libgomp", "libiomp5", "libomp")
_CUDA_LIBRARIES = (
    "libcudnn", "libcublas", "libnccl", "libnvrtc", "libnvJitLink", "libcudart", "libcusparse", "libcusolver",
    "libcufft", "libcurand", "libtorch", "libc10",
)  # fmt: skip
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
        observed = f"Python does not start: {facts.torch.unreadable}"
    else:
        observed = f"`import torch` fails: {facts.torch.unreadable}"
    yield Judgement(
        verdict=Verdict.FAIL,
        observed=observed[:1500],
        wanted="torch can be imported",
        source=facts.torch.source,
        why=_meaning(facts),
        command=with_prefix("envforge audit --fix", facts),
    )


def _meaning(facts: EnvironmentFacts) -> str:
    """What is known of this way to fail."""
    end, text = facts.process, facts.torch.unreadable or ""
    if end is not None and end.signal == "SIGILL":
        return "SIGILL: a library was built for a newer CPU than this one (x86-64-v3, AVX-512)."
    if end is not None and end.signal in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        return f"{end.signal}: mostly a library of another build, or two OpenMP runtimes in one process."
    if end is not None and end.exit_code is None:
        return "The import hangs: a driver that does not answer, or a file system that does not."
    if "undefined symbol" in text or "nvJitLink" in text:
        return "A CUDA library of another version is loaded before the environment's own: LD_LIBRARY_PATH, LD_PRELOAD."
    return ""


def _isolation(facts: EnvironmentFacts) -> Iterator[Judgement]:
    python, isolated = facts.python.value, facts.isolated_torch.value
    if facts.process is None:
        yield skipped(f"{_INVISIBLE}: {facts.python.unreadable}")
    elif python is None:
        yield unknown(facts.python, "Python did not say where it imports from")
    elif python.torch_origin is not None and python.torch_origin != isolated:
        cause = "PYTHONPATH" if python.python_path else "the current folder or the user's site-packages"
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"a plain `import torch` takes `{python.torch_origin}` because of {cause}",
            wanted=f"the environment's own: {isolated or 'it has none'}",
            source=facts.python.source,
            command="unset PYTHONPATH; export PYTHONNOUSERSITE=1",
        )
    elif stray := _stray_places(python):
        yield Judgement(
            verdict=Verdict.WARN,
            observed="Python also imports from " + ", ".join(f"`{place}`" for place in stray),
            wanted="imports from the environment alone",
            source=facts.python.source,
            command="unset PYTHONPATH; export PYTHONNOUSERSITE=1",
        )
    elif python.outside:
        yield Judgement(
            verdict=Verdict.INFO,
            observed="Python also imports from " + ", ".join(f"`{place}`" for place in python.outside),
            wanted="imports from the environment, and from what was installed into it to be edited (`pip install -e`)",
            source=facts.python.source,
        )
    else:
        yield passed(f"Python {python.version} imports from its own environment", source=facts.python.source)


def _stray_places(python: PythonFacts) -> list[str]:
    """Folders that something other than the environment's own ``.pth`` files adds: PYTHONPATH, the user's site."""
    added = {entry.partition(": ")[2] for entry in python.pth}
    places = (*(place for place in python.outside if place not in added), python.user_site)
    return [place for place in dict.fromkeys(places) if place is not None]


def _outside(facts: EnvironmentFacts) -> Iterator[Judgement]:
    libraries = facts.libraries.value
    if libraries is None:
        yield _unread(facts, "the mapped libraries are not known")
        return
    outside = [library for library in libraries if not library.inside and library.family in _CUDA_LIBRARIES]
    for library in outside:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"`{library.path}` is loaded",
            wanted=f"{library.family} of the environment in `{facts.prefix}`",
            source="/proc/self/maps after import torch",
            subject=library.family,
            command="unset LD_LIBRARY_PATH LD_PRELOAD",
        )
    if not outside:
        yield passed(
            f"{len(libraries)} libraries, all of this environment", source="/proc/self/maps after import torch"
        )


def _openmp(facts: EnvironmentFacts) -> Iterator[Judgement]:
    libraries = facts.libraries.value
    if libraries is None:
        yield skipped(f"the mapped libraries are not known: {facts.libraries.unreadable}")
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
        yield skipped("torch was not imported: see torch-import-failed")
        return
    complaint = next((text for text in torch.warnings if "umpy" in text or "ARRAY_API" in text), None)
    if numpy is None and facts.numpy.unreadable == "it is not there" and complaint is None:
        yield skipped("the environment has no NumPy")
    elif numpy is None:
        yield unknown(facts.numpy, "NumPy was not tried")
    elif not numpy.works or complaint is not None:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=f"NumPy {numpy.version} and torch {torch.version} do not fit: {numpy.error or complaint}",
            wanted="an array becomes a tensor and comes back",
            source=facts.numpy.source,
            command=with_prefix("envforge audit --fix", facts),
        )
    else:
        yield passed(f"NumPy {numpy.version}: arrays become tensors and come back", source=facts.numpy.source)


def _unread(facts: EnvironmentFacts, what: str) -> Judgement:
    if facts.torch.value is None:
        return skipped("torch was not imported: see torch-import-failed")
    return unknown(facts.libraries, what)


CHECKS = (
    Check(
        id="torch-import-failed",
        question="environment",
        group="libraries",
        title="torch can be imported",
        why="Nothing trains before `import torch` works; a crash in it takes the whole interpreter with it.",
        severity=Verdict.FAIL,
        judge=on_environment(_torch),
        required=True,
    ),
    Check(
        id="import-isolation",
        question="environment",
        group="libraries",
        title="Python imports from this environment alone",
        why="PYTHONPATH, the user's site-packages or a file named torch.py can put another torch first.",
        severity=Verdict.FAIL,
        judge=on_environment(_isolation),
        row=40,
    ),
    Check(
        id="library-from-outside",
        question="environment",
        group="libraries",
        title="CUDA and torch libraries come from this environment",
        why="A cuDNN or cuBLAS of another version ends in undefined symbols, or in other numbers without an error.",
        severity=Verdict.FAIL,
        judge=on_environment(_outside),
        row=32,
    ),
    Check(
        id="openmp-twice",
        question="environment",
        group="libraries",
        title="One OpenMP runtime in the process",
        why="Two runtimes fight for the threads: slow, `OMP: Error #15`, a crash. KMP_DUPLICATE_LIB_OK only hides it.",
        severity=Verdict.WARN,
        judge=on_environment(_openmp),
        row=34,
    ),
    Check(
        id="numpy-abi",
        question="environment",
        group="libraries",
        title="NumPy and torch fit",
        why="A torch built for NumPy 1 cannot take arrays of NumPy 2, and says so only when the first array comes.",
        severity=Verdict.FAIL,
        judge=on_environment(_numpy),
        row=35,
    ),
)
