"""Record an install where conda looks for it: the requested packages, the history, and the list of environments.

Without these records, ``conda remove`` takes every package for a dependency that nothing needs any more.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from envforge.base.files import write_atomic
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import Lockfile
from envforge.lock.plan import Artifact, Plan, record_name
from envforge.prefix.installed import load_record, save_record

_ANACONDA = "https://conda.anaconda.org/"
_SPECS = re.compile(r"^# (update|remove) specs: (\[.*\])$", re.MULTILINE)


def requested_specs(lockfile: Lockfile, where: Path, plan: Plan) -> dict[str, str]:
    """Return the conda packages that the environment files request, with their constraints.

    Packages that no other package needs are requested, too, such as pip, which conda-lock adds if there are wheels. If
    the files are missing or invalid, only those are requested, and Python.
    """
    from envforge.lock.inputs import read_inputs  # noqa: PLC0415 - an environment that is up to date needs no requests

    planned = {artifact.package.name for artifact in plan.conda}
    # conda removes what nobody requested and nothing needs, so what nothing needs counts as requested
    needed = {name for artifact in plan.conda for name, _ in artifact.package.dependencies}
    found = {name: name for name in planned - needed}
    first, *others = lockfile.source_files(where) or (where.with_name("environment.yml"),)
    try:
        inputs = read_inputs(first, None, (plan.platform,), others=others)
        found |= {one.name: str(one.spec) for one in inputs.wanted(plan.platform) if one.spec is not None}
    except EnvforgeError:  # a lockfile can be installed without its sources
        found["python"] = "python"
    return {name: found[name] for name in sorted(found.keys() & planned)}


def record_install(prefix: Path, plan: Plan, specs: Mapping[str, str], linked: Collection[Artifact]) -> None:
    """Write the requests into conda-meta, the change into its history, and the prefix into the list of conda.

    The records of the packages in ``linked`` have their requests.
    """
    written = frozenset(linked)
    for artifact in plan.conda:
        if artifact not in written:
            _record_request(prefix / "conda-meta" / f"{record_name(artifact)}.json", specs.get(artifact.package.name))
    history = prefix / "conda-meta" / "history"
    old = history.read_bytes() if history.is_file() else b""
    event = _event(old.decode("utf-8", "replace"), {_distribution(artifact) for artifact in plan.conda}, specs)
    if event:
        # replaced and not appended to, so that a full disk leaves the old history
        write_atomic(history, old + event.encode(), synced=False, through_links=False)
    _register(prefix)


def _record_request(path: Path, spec: str | None) -> None:
    if spec is None and b'"requested_spec": ' not in path.read_bytes():
        return
    record = load_record(path)
    wanted = with_request(record, spec)
    if wanted != record:
        save_record(path, wanted)


def with_request(record: Mapping[str, Any], spec: str | None) -> dict[str, Any]:
    """Return a record of ``conda-meta`` with the constraint that was requested, or without one."""
    others = {name: value for name, value in record.items() if name not in {"requested_spec", "requested_specs"}}
    return others if spec is None else {"requested_spec": spec, "requested_specs": [spec], **others}


def _distribution(artifact: Artifact) -> str:
    """Return a package as conda writes it in a history: ``conda-forge/noarch::jinja2-3.1.6-pyhd8ed1ab_0``."""
    place = show_url(artifact.package.url).rpartition("/")[0]
    return f"{place.removeprefix(_ANACONDA)}::{record_name(artifact)}"


def _event(history: str, installed: Collection[str], specs: Mapping[str, str]) -> str:
    """Return the lines to append to a history; empty if neither the packages nor the requests changed."""
    before: set[str] = set()
    for line in history.splitlines():
        if line.startswith("-"):
            before.discard(line[1:])
        elif line and not line.startswith(("#", "==>")):
            before.add(line.removeprefix("+"))
    requested = _requested(history)
    gone = sorted(requested.keys() - specs.keys())
    lines = [f"-{name}" for name in sorted(before.difference(installed))]
    lines += [f"+{name}" for name in sorted(set(installed) - before)]
    lines += [f"# remove specs: {gone}"] if gone else []
    lines += [f"# update specs: {list(specs.values())}"] if requested != dict(specs) and specs else []
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return "\n".join([f"==> {now} <==", "# cmd: envforge install", *lines, ""]) if lines else ""


def _requested(history: str) -> dict[str, str]:
    """Return the requests of a history, by name; an invalid line is ignored."""
    found: dict[str, str] = {}
    for action, text in _SPECS.findall(history):
        for spec in _strings(text):
            name = re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2], maxsplit=1)[0]
            found.pop(name, None)
            found |= {name: spec} if action == "update" else {}
    return found


def _strings(text: str) -> list[str]:
    try:
        return [str(value) for value in ast.literal_eval(text)]
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two for one that nests deeply
        return []


def _register(prefix: Path) -> None:
    """List the prefix in ``~/.conda/environments.txt`` if conda is in use here; a failure is harmless, as in conda."""
    if os.environ.get("CONDA_REGISTER_ENVS", "").lower() in {"false", "no", "off", "0"}:
        return
    try:
        listed = Path.home() / ".conda" / "environments.txt"
        if not listed.parent.is_dir() and shutil.which("conda") is None:
            return
        text = listed.read_text(encoding="utf-8") if listed.is_file() else ""
        if str(prefix) not in text.splitlines():
            listed.parent.mkdir(exist_ok=True)
            with listed.open("a", encoding="utf-8") as stream:
                stream.write(f"{prefix}\n")
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home directory
        return
