"""Derive the documents of `envforge/data` from the facts, and raise `FactError` if facts contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from packaging.version import Version

from envforge.base.terms import WheelTag
from envforge.lock.environment_spec import split_conda_spec
from tools.facts.read import FactError, Facts
from tools.facts.rows import Capability, Cited, Kernels, Release, Row, Wheels

Document = dict[str, Any]
_Row = TypeVar("_Row")
_Build = tuple[str, str, str]  # torch (a release or a minor version), tag, platform


def matrix(facts: Facts) -> Document:
    """Return `matrix.json`, which `envforge.pytorch.matrix` reads as its `Matrix`."""
    confirmed = _confirmed(facts)
    stated = {file.release.torch: file.release for file in facts.releases}
    builds, kernels = _builds(facts), _used_kernels(facts)
    return {
        "checked": max(row.checked for row in builds.values()),
        "known_capabilities": [row.capability for row in facts.capabilities],
        "tegra": [row.capability for row in facts.capabilities if row.exact],
        "python_defaults": [_table(row, ("tag", "at_most", "reason")) for row in facts.python_defaults],
        **_drivers(facts),
        "builds": [
            _build(build, row, stated[build[0]], kernels.get((_minor(build[0]), *build[1:])), confirmed)
            for build, row in builds.items()
        ],
        "pip_defaults": [
            {"since": file.release.torch, **_table(row, ("platforms", "tag", "source", "checked"))}
            for file in facts.releases
            for row in file.pip
        ],
    }


def _build(
    build: _Build, row: Wheels, release: Release, kernels: Kernels | None, confirmed: Mapping[str, bool]
) -> Document:
    torch, tag, platform = build
    return {
        "torch": torch,
        "tag": tag,
        "platform": platform,
        "torchvision": release.torchvision,
        "torchaudio": release.torchaudio if row.torchaudio else None,
        "glibc": row.glibc,
        "pythons": row.pythons,
        "capabilities": kernels.capabilities if kernels else (),
        "ptx": kernels.ptx if kernels else (),
        "plain": row.plain,
        "local_version": "torch" not in row.plain,
        "confirmed": confirmed[row.evidence],
        "capabilities_stated": kernels is None or confirmed[kernels.evidence],
    }


def _drivers(facts: Facts) -> Document:
    """Return the oldest drivers; every CUDA tag of a build has a toolkit and a family."""
    toolkits = _unique([(row.cuda, row) for row in facts.toolkits], "toolkit")
    families = _unique([(row.major, row) for row in facts.families], "family")
    for _, tag, _ in _builds(facts):
        cuda = WheelTag.parse(tag).cuda
        if cuda is not None and str(cuda) not in toolkits:
            raise FactError(f"no file in cuda/ or torch/ has a `[[toolkit]]` for CUDA {cuda} (`{tag}`)")
        if cuda is not None and cuda.major not in families:
            raise FactError(f"no file in cuda/ or torch/ has a `[[family]]` for CUDA {cuda.major} (`{tag}`)")
    return {
        "families": [{"cuda": str(row.major), "linux": row.linux, "windows": row.windows} for row in families.values()],
        "toolkits": [_table(row, ("cuda", "linux", "windows")) for row in toolkits.values()],
    }


def nvidia_drivers(facts: Facts) -> Document:
    """Return `nvidia-drivers.json`."""
    _unique([(row.driver, row) for row in facts.branches], "branch")
    return {
        "branches": [_table(row, ("driver", "cuda")) for row in facts.branches],
        "open_modules_from": facts.open_modules.first_capability,
        "supports": [_support(row, facts) for row in facts.capabilities],
        "tegra": [_table(row, ("chip", "name", "capability")) for row in facts.tegra],
    }


def other_gpus(facts: Facts) -> Document:
    """Return `other-gpus.json`."""
    _unique([(row.id, row) for row in facts.vendors], "vendor")
    return {"vendors": [_table(row, ("id", "name", "builds", "index", "devices")) for row in facts.vendors]}


def _support(row: Capability, facts: Facts) -> Document:
    """Return the driver branches of a GPU: the first is that of the first toolkit, if `cuda/` has this toolkit."""
    first = next((each.driver for each in facts.branches if each.cuda == row.first_cuda), None)
    return {"capability": row.capability, "first": first, "last": row.last_driver, "sbsa_cuda": row.sbsa_cuda}


def names(facts: Facts) -> Document:
    """Return `name_mapping.json`."""
    return {"pairs": [[row.python, row.conda] for row in facts.names]}


def requirements(facts: Facts) -> Document:
    """Return `torch_requirements.json`: for each package, its constraint and the releases that it applies to."""
    rows: list[Document] = []
    current: dict[str, Document] = {}
    for number, file in enumerate(facts.releases):
        torch = file.release.torch
        for drop in file.drops:
            for name in drop.conda:
                if name not in current:
                    raise FactError(f"torch/{torch}.toml drops `{name}`, which no earlier release requires")
                current.pop(name)["before"] = torch
        for fact in file.requires:
            for spec in fact.conda:
                name, _ = split_conda_spec(spec)
                if name in current:
                    current[name]["before"] = torch
                current[name] = {"conda": spec, "since": torch if number else None, "before": None}
                rows.append(current[name])
    return {"requirements": rows}


def _builds(facts: Facts) -> dict[_Build, Wheels]:
    rows = [
        ((file.release.torch, tag, row.platform), row)
        for file in facts.releases
        for row in file.wheels
        for tag in row.tags
    ]
    unique = _unique([(_name(build), (build, row)) for build, row in rows], "wheels")
    return dict(sorted(unique.values(), key=lambda pair: _order(pair[0])))


def _used_kernels(facts: Facts) -> dict[_Build, Kernels]:
    """Return the list of each minor version, CUDA tag, and platform that has a build."""
    rows = [
        ((_minor(file.release.torch), row.tag, platform), row)
        for file in facts.releases
        for row in file.kernels
        for platform in row.platforms
    ]
    stated = dict(_unique([(_name(build), (build, row)) for build, row in rows], "kernels").values())
    used = {}
    for torch, tag, platform in _builds(facts):
        build = (_minor(torch), tag, platform)
        if tag != "cpu" and build not in stated:
            raise FactError(f"no file in torch/ has `[[kernels]]` for {_name(build)}")
        if tag != "cpu":
            used[build] = stated[build]
    for build in stated:
        if build not in used:
            raise FactError(f"`[[kernels]]` for {_name(build)}, but no `[[wheels]]` row has this build")
    return used


def _confirmed(facts: Facts) -> dict[str, bool]:
    """Return whether each kind of evidence confirms a row; raise `FactError` if a row cites an unknown kind."""
    known = {kind.name: kind.confirmed for kind in facts.evidence}
    rows: list[Cited] = [*facts.toolkits, *facts.families, *facts.python_defaults]
    for file in facts.releases:
        rows += [file.release, *file.wheels, *file.kernels]
    for row in rows:
        if row.evidence not in known:
            names = ", ".join(f"`{name}`" for name in known)
            raise FactError(f"evidence.toml has no `{row.evidence}`; it has {names}")
    return known


def _table(row: Row, fields: Sequence[str]) -> Document:
    return {name: getattr(row, name) for name in fields}


def _unique(rows: Sequence[tuple[Any, _Row]], table: str) -> dict[Any, _Row]:
    found: dict[Any, _Row] = {}
    for key, row in rows:
        if key in found:
            raise FactError(f"`[[{table}]]` has {key} twice")
        found[key] = row
    return found


def _order(build: _Build) -> tuple[Version, str, str]:
    torch, tag, platform = build
    return Version(torch), tag, platform


def _minor(torch: str) -> str:
    return ".".join(torch.split(".")[:2])


def _name(build: _Build) -> str:
    torch, tag, platform = build
    return f"torch {torch}, {tag}, {platform}"
