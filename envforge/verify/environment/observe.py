"""Observe the environment: its prefix, its audit, and what its Python loads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from envforge.base.documents import Document
from envforge.base.process import Child, run_child
from envforge.errors import EnvforgeError
from envforge.lock.needs import cuda_of_build, locked_cuda
from envforge.lock.plan import read_any_lock
from envforge.lock.project import is_prefix
from envforge.machine.probe import probe
from envforge.machine.values import Machine, driver_text
from envforge.prefix.journal import read_journal
from envforge.verify.environment.facts import AuditDifference, AuditFacts, EnvironmentFacts, LockedTorch, VisibleGpu
from envforge.verify.values import Signal

if TYPE_CHECKING:
    from envforge.prefix.audit_files import AuditFinding
    from envforge.verify.observe import Situation


def prefix_state(prefix: Path | None) -> tuple[str, str]:  # noqa: PLR0911 - one line for each state
    """Return the state of a prefix as one word, and as a sentence."""
    if prefix is None:
        return "none", "no environment: neither a project nor `--prefix`"
    if not prefix.is_dir():
        return "missing", f"no environment in `{prefix}`"
    if not is_prefix(prefix):
        if (prefix / "pyvenv.cfg").is_file():
            if python_of(prefix) is None:
                return "not-an-environment", f"`{prefix}` is a virtual environment without Python"
            return "virtual", f"`{prefix}` is a virtual environment that envforge did not create"
        return "not-an-environment", f"`{prefix}` is not an environment: no `conda-meta`, `.envforge` or `pyvenv.cfg`"
    try:
        journal = read_journal(prefix)
    except EnvforgeError as error:
        return "damaged", error.message
    if journal is None:
        if not (prefix / "conda-meta").is_dir():
            return "unfinished", f"`{prefix}` is incomplete: the installation stopped before its first step"
        return "foreign", f"`{prefix}` was created by another tool"
    if journal.step != "verified":
        return "unfinished", f"`{prefix}` is {journal.unfinished}"
    return "finished", f"`{prefix}` was installed from `{journal.lockfile}`"


def python_of(prefix: Path) -> Path | None:
    """Return the interpreter of a conda or virtual environment; None if it has none."""
    places = ("python.exe", "Scripts/python.exe") if os.name == "nt" else ("bin/python", "bin/python3")
    return next((prefix / place for place in places if (prefix / place).is_file()), None)


_NAMED = ("cudnn", "nccl", "numpy")


def locked_torch(lock: Path | None, platform: str) -> Signal[LockedTorch]:
    """Return the torch of that platform in the lockfile, or why it is unknown."""
    if lock is None:
        return Signal(unreadable="no lockfile")
    try:
        lockfile = read_any_lock(lock, platform)
    except EnvforgeError as error:
        return Signal(source=str(lock), unreadable=error.message)
    names = {package.name: package for package in lockfile.for_platform(platform)}
    torch = names.get("torch") or names.get("pytorch")
    if torch is None:
        lack = "has no torch" if names else "has no packages"
        return Signal(source=str(lock), unreadable=f"the lockfile `{lock}` {lack} for `{platform}`")
    cuda = locked_cuda(lockfile, platform)
    wheel_cuda = str(cuda.version) if cuda else None
    versions = {name: package.version for name, package in names.items()}
    found = LockedTorch(
        version=torch.version,
        build=torch.file_name,
        cuda=_conda_cuda(torch.file_name, versions) if torch.manager == "conda" else wheel_cuda,
        packages={key: version for key in _NAMED if (version := _version_of(key, versions)) is not None},
    )
    return Signal(value=found, source=str(lock))


def _conda_cuda(build: str, names: dict[str, str]) -> str | None:
    version = cuda_of_build(build)
    if version is not None:
        return str(version)
    return "" if "cuda" in build or "pytorch-cuda" in names else None


def _version_of(library: str, names: dict[str, str]) -> str | None:
    """Return the version of a library, by its conda name or its name on PyPI, such as ``nvidia-cudnn-cu13``."""
    if library in names:
        return names[library]
    return next((v for name, v in sorted(names.items()) if name.startswith(f"nvidia-{library}")), None)


# a broken environment has thousands of differences, and records are sent to others
KEPT = 50
PROGRAMS = Path(__file__).parents[2] / "programs"
_PARTS = ("python", "torch", "cuda", "numpy", "libraries", "toolchain")  # what the process reports
OUTPUT = Document(damaged="invalid output of the process", error=EnvforgeError, code="process-output")
T = TypeVar("T")


def observe_environment(situation: Situation) -> EnvironmentFacts:
    """Observe the environment; each child process may take ``situation.limit_s`` seconds."""
    machine = probe(situation.world)
    state, text = prefix_state(situation.prefix)
    not_wanted: Signal[Any] = Signal(unreadable="no selected check needs it", code="not-wanted")
    missing: Signal[Any] = Signal(unreadable=text if situation.prefix is None else f"no Python in `{situation.prefix}`")
    python = python_of(situation.prefix) if situation.prefix is not None else None
    if situation.wants("python") and situation.prefix is not None and python is not None:
        parts = _ask(situation, situation.prefix, python)
    else:
        parts = dict.fromkeys((*_PARTS, "isolated_torch"), missing if situation.wants("python") else not_wanted)
    if not situation.wants("audit"):
        parts["audit"] = not_wanted
    elif situation.prefix is not None and state in ("finished", "foreign"):
        situation.say("comparing the environment with its lockfile")
        parts["audit"] = _audit(situation.prefix, situation.lock, machine.platform)
    else:
        parts["audit"] = Signal(unreadable=text)
    return EnvironmentFacts(
        prefix=None if situation.prefix is None else str(situation.prefix),
        state=state,
        state_text=text,
        platform=machine.platform,
        locked=locked_torch(situation.lock, machine.platform),
        **machine_facts(machine),
        **parts,
    )


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return what the driver reports, to compare it with torch."""
    version = machine.driver.version if machine.driver else None
    gpus = tuple(
        VisibleGpu(index=gpu.index, name=gpu.name, capability=str(gpu.compute_capability or "") or None)
        for gpu in machine.visible_gpus
    )
    return {
        "driver": driver_text(version) if version else ("unknown version" if machine.driver else None),
        "driver_source": machine.source("driver.user_version") or machine.source("driver.kernel_version") or "",
        "machine_gpus": gpus,
        "conditions": tuple(condition.code for condition in machine.conditions),
    }


def child_environment(prefix: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user's variables with the environment activated; no bytecode is written to the project."""
    from envforge.prefix.activation import activation  # noqa: PLC0415 - checks of the machine don't need it

    changed = dict(environment)
    if is_prefix(prefix):
        with contextlib.suppress(EnvforgeError):  # a file of variables is invalid, but Python starts without them
            changed = activation(prefix, prefix.name, environment).applied(environment)
    return {**changed, "PYTHONDONTWRITEBYTECODE": "1"}


def measuring_command(python: Path, module: str, argument: str, *flags: str) -> tuple[str, ...]:
    """Return the command that runs ``main`` of a module in another environment's Python, without envforge."""
    # the directory must not stay in `sys.path`, which is one of the facts
    start = f"import sys; sys.path.append(sys.argv[1]); from {module} import main; sys.path.pop(); main(sys.argv[2])"
    return (str(python), *flags, "-c", start, str(PROGRAMS), argument)


def _ask(situation: Situation, prefix: Path, python: Path) -> dict[str, Any]:
    """Return what the environment's Python loads if a user starts it, and which torch it finds with ``-I``."""
    environment = child_environment(prefix, situation.world.environment)
    folder = situation.project or situation.folder

    def start(mode: str, *flags: str) -> Child:
        return Child(
            command=measuring_command(python, "envforge_measures.imports", mode, *flags),
            environment=environment,
            folder=folder,
            limit_s=situation.limit_s,
            tick=lambda elapsed_s: situation.say(f"importing torch ({elapsed_s:.0f} s)"),
        )

    situation.say("importing torch")
    end, lines = run_child(start("plain"))
    # `-I` ignores PYTHONDONTWRITEBYTECODE, so it needs `-B`
    isolated_end, isolated = run_child(start("isolated", "-I", "-B"))
    said = {str(line.get("part")): line for line in (*lines, *isolated)}
    missing = end.in_words if not end.is_good else "the process did not report it"
    if end.stderr and not end.is_good:
        missing += f"; last line of stderr: {end.stderr.splitlines()[-1][:300]}"

    kinds = get_type_hints(EnvironmentFacts)

    def signal(name: str, part: str, why: str) -> Signal[Any]:
        return _signal(said.get(part), get_args(kinds[name])[0], source=f"{python}, {part}", why=why)

    facts: dict[str, Any] = {part: signal(part, part, missing) for part in _PARTS}
    return {**facts, "process": end, "isolated_torch": signal("isolated_torch", "isolated", isolated_end.in_words)}


def _signal(line: dict[str, Any] | None, kind: type[T], *, source: str, why: str) -> Signal[T]:
    """Convert a line of the child to a typed value."""
    if line is None:
        return Signal(source=source, unreadable=why)
    if "error" in line:
        return Signal(source=source, unreadable=str(line["error"])[:2000], code=line.get("code"))
    if line.get("value") is None:
        return Signal(source=source, unreadable="not found", code="not-found")
    return converted(line["value"], kind, source)


def converted(value: Any, kind: type[T], source: str) -> Signal[T]:
    """Return a value that a process printed as a signal of this type; one of another type is unreadable."""
    try:
        return Signal(value=OUTPUT.convert(value, kind), source=source)
    except EnvforgeError as error:
        return Signal(source=source, unreadable=error.message)


def _audit(prefix: Path, lock: Path | None, platform: str) -> Signal[AuditFacts]:
    from envforge.prefix.audit import AuditRequest, audit  # noqa: PLC0415 - as above

    source = f"envforge audit --prefix {prefix}"
    try:
        report = audit(AuditRequest(prefix=prefix, platform=platform, lockfile=lock))
    except (EnvforgeError, OSError) as error:
        return Signal(source=source, unreadable=getattr(error, "message", str(error)))
    facts = AuditFacts(
        lockfile=str(report.lockfile),
        platform=report.platform,
        digest=report.digest,
        packages=report.counts.packages,
        files=report.counts.files,
        drift_count=len(report.drift),
        drift=_differences(report.drift),
        warnings=_differences(report.warnings),
        notes=report.notes,
    )
    return Signal(value=facts, source=source)


def _differences(found: Sequence[AuditFinding]) -> tuple[AuditDifference, ...]:
    return tuple(AuditDifference(kind=f.kind, text=f.text, package=f.package, path=f.path) for f in found[:KEPT])
