"""Observe the environment: audit it, and import torch with its own Python."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from envforge.audit import AuditRequest, audit
from envforge.audit.values import Finding
from envforge.daily.activation import activation
from envforge.daily.prefix import is_prefix
from envforge.errors import EnvforgeError
from envforge.machine import Machine, driver_text
from envforge.probe import probe
from envforge.verify.environment import needs
from envforge.verify.environment.facts import (
    NOT_FOUND,
    AuditFacts,
    AuditFinding,
    CudaFacts,
    EnvironmentFacts,
    Library,
    MachineGpu,
    NumpyFacts,
    PythonFacts,
    Toolchain,
    TorchFacts,
)
from envforge.verify.environment.locked import locked_torch
from envforge.verify.environment.prefix import prefix_state, python_of
from envforge.verify.environment.process import Child, run_child
from envforge.verify.values import Signal

if TYPE_CHECKING:
    from envforge.verify.observe import Situation

KEPT = 50
_NOT_WANTED = "no selected check needs it"
T = TypeVar("T")


def observe_environment(situation: Situation) -> EnvironmentFacts:
    """Observe the environment; each child process may take ``situation.limit_s`` seconds."""
    machine = probe(situation.world)
    state, text = prefix_state(situation.prefix)
    parts: dict[str, Any] = {}
    if not situation.wants(*needs.PYTHON):
        parts = _without_python(_NOT_WANTED)
    elif situation.prefix is not None and (python := python_of(situation.prefix)) is not None:
        parts = _ask(situation, situation.prefix, python)
    elif situation.prefix is not None:
        parts = _without_python(f"no Python in `{situation.prefix}`")
    else:
        parts = _without_python(text)
    if not situation.wants(*needs.AUDIT):
        parts["audit"] = Signal(unreadable=_NOT_WANTED)
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
        MachineGpu(index=gpu.index, name=gpu.name, capability=str(gpu.compute_capability or "") or None)
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
    changed = dict(environment)
    if is_prefix(prefix):
        try:
            changed = activation(prefix, prefix.name, environment).applied(environment)
        except EnvforgeError:  # a file of variables is invalid, but Python starts without them
            changed = dict(environment)
    changed["PYTHONDONTWRITEBYTECODE"] = "1"
    return changed


def _ask(situation: Situation, prefix: Path, python: Path) -> dict[str, Any]:
    """Return what the environment's Python loads if a user starts it, and which torch it finds with ``-I``."""
    source = (files("envforge") / "verify" / "environment" / "child.py").read_text(encoding="utf-8")
    environment = child_environment(prefix, situation.world.environment)
    folder = situation.project or situation.folder

    def start(mode: str, *flags: str) -> Child:
        command = (str(python), *flags, "-c", source, mode)
        return Child(
            command=command,
            environment=environment,
            folder=folder,
            limit_s=situation.limit_s,
            tick=lambda elapsed_s: situation.say(f"importing torch ({elapsed_s:.0f} s)"),
        )

    situation.say("importing torch")
    end, lines = run_child(start("plain"))
    isolated_end, isolated = run_child(start("isolated", "-I"))
    said = {str(line.get("part")): line for line in (*lines, *isolated)}
    missing = end.in_words if not end.is_good else "the process did not report it"
    if end.stderr and not end.is_good:
        missing += f"; last line of stderr: {end.stderr.splitlines()[-1][:300]}"

    def signal(part: str, kind: type[T], why: str = missing) -> Signal[T]:
        return _signal(said.get(part), kind, source=f"{python}, {part}", why=why)

    return {
        "process": end,
        "python": signal("python", PythonFacts),
        "torch": signal("torch", TorchFacts),
        "cuda": signal("cuda", CudaFacts),
        "numpy": signal("numpy", NumpyFacts),
        "libraries": signal("libraries", tuple[Library, ...]),
        "toolchain": signal("toolchain", Toolchain),
        "isolated_torch": signal("isolated", str, isolated_end.in_words),
    }


def _without_python(why: str) -> dict[str, Any]:
    names = ("python", "torch", "cuda", "numpy", "libraries", "toolchain", "isolated_torch")
    return {name: Signal(unreadable=why) for name in names}


def _signal(line: dict[str, Any] | None, kind: type[T], *, source: str, why: str) -> Signal[T]:
    """Convert a line of the child to a typed value."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - heavy, and only `verify` needs it

    if line is None:
        return Signal(source=source, unreadable=why)
    if "error" in line:
        return Signal(source=source, unreadable=str(line["error"])[:2000])
    if line.get("value") is None:
        return Signal(source=source, unreadable=NOT_FOUND)
    try:
        return Signal(value=TypeAdapter(kind).validate_python(line["value"]), source=source)
    except ValidationError as error:
        return Signal(source=source, unreadable=f"invalid output of the process: {error.errors()[0]['msg']}")


def _audit(prefix: Path, lock: Path | None, platform: str) -> Signal[AuditFacts]:
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
        drift=tuple(map(_finding, report.drift[:KEPT])),
        warnings=tuple(map(_finding, report.warnings[:KEPT])),
        notes=report.notes,
    )
    return Signal(value=facts, source=source)


def _finding(found: Finding) -> AuditFinding:
    return AuditFinding(kind=found.kind, text=found.text, package=found.package, path=found.path)
