"""Derive the documents of `envforge/data` from the facts, and raise `FactError` if facts contradict each other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from packaging.version import Version

from envforge.base.terms import WheelTag
from envforge.lock.environment_spec import split_conda_spec
from tools.facts.read import FactError, Facts
from tools.facts.rows import Cited, Family, Kernels, Toolkit, Wheels

Document = dict[str, Any]
_Row = TypeVar("_Row")
_Build = tuple[str, str, str]  # torch (a release or a minor version), tag, platform


def releases(facts: Facts) -> Document:
    """Return `torch_releases.toml`."""
    rows = [file.release for file in facts.releases]
    fields = ("torch", "date", "torchvision", "torchaudio", "evidence", "note")
    return {
        "evidence": _evidence(facts, [*rows, *facts.python_defaults]),
        "python_default": [_table(row, ("tag", "at_most", "reason", "evidence")) for row in facts.python_defaults],
        "release": [_table(row, fields) for row in rows],
    }


def wheels(facts: Facts) -> Document:
    """Return `torch_wheels.toml`, sorted by release, tag, and platform."""
    builds = _builds(facts)
    rows = [
        {
            "torch": torch,
            "tag": tag,
            "platform": platform,
            "pythons": row.pythons,
            "glibc": row.glibc,
            "plain": row.plain or None,
            "torchaudio": None if row.torchaudio else False,
            "evidence": row.evidence,
        }
        for (torch, tag, platform), row in builds.items()
    ]
    return {"evidence": _evidence(facts, builds.values()), "wheel": rows}


def architectures(facts: Facts) -> Document:
    """Return `architectures.toml`, which has a row for each minor version, CUDA tag, and platform that has a build."""
    stated = _kernels(facts)
    needed = [(_minor(torch), tag, platform) for torch, tag, platform in _builds(facts) if tag != "cpu"]
    used = {}
    for build in sorted(set(needed), key=_order):
        if build not in stated:
            raise FactError(f"no file in torch/ has `[[kernels]]` for {_name(build)}")
        used[build] = stated.pop(build)
    if stated:
        raise FactError(f"`[[kernels]]` for {_name(next(iter(stated)))}, but no `[[wheels]]` row has this build")
    rows = [
        {
            "torch": minor,
            "tag": tag,
            "platform": platform,
            "capabilities": row.capabilities,
            "ptx": row.ptx,
            "evidence": row.evidence,
        }
        for (minor, tag, platform), row in used.items()
    ]
    return {
        "known": [row.capability for row in facts.capabilities],
        "tegra": [row.capability for row in facts.capabilities if row.exact],
        "evidence": _evidence(facts, used.values()),
        "architecture": rows,
    }


def drivers(facts: Facts) -> Document:
    """Return `drivers.toml`; every CUDA tag of a build has a toolkit and a family."""
    toolkits = _unique([(row.cuda, row) for row in facts.toolkits], "toolkit")
    families = _unique([(row.major, row) for row in facts.families], "family")
    for _, tag, _ in _builds(facts):
        cuda = WheelTag.parse(tag).cuda
        if cuda is not None and str(cuda) not in toolkits:
            raise FactError(f"no file in cuda/ or torch/ has a `[[toolkit]]` for CUDA {cuda} (`{tag}`)")
        if cuda is not None and cuda.major not in families:
            raise FactError(f"no file in cuda/ or torch/ has a `[[family]]` for CUDA {cuda.major} (`{tag}`)")
    rows: list[Toolkit | Family] = [*families.values(), *toolkits.values()]
    fields = ("linux", "windows", "evidence")
    return {
        "evidence": _evidence(facts, rows),
        "family": [_table(row, ("major", *fields)) for row in families.values()],
        "toolkit": [_table(row, ("cuda", *fields)) for row in toolkits.values()],
    }


def nvidia_drivers(facts: Facts) -> Document:
    """Return `nvidia-drivers.toml`."""
    branches = _unique([(row.driver, row.cuda) for row in facts.branches], "branch")
    return {"branches": branches, "tegra": {row.chip: row.capability for row in facts.tegra}}


def requirements(facts: Facts) -> Document:
    """Return `torch_requirements.toml`: for each package, its constraint and the releases that it applies to."""
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
                current[name] = {"conda": [spec], "since": torch if number else None, "before": None}
                current[name] |= {"source": fact.source, "checked": fact.checked}
                rows.append(current[name])
    return {"row": rows}


def _builds(facts: Facts) -> dict[_Build, Wheels]:
    rows = [
        ((file.release.torch, tag, row.platform), row)
        for file in facts.releases
        for row in file.wheels
        for tag in row.tags
    ]
    unique = _unique([(_name(build), (build, row)) for build, row in rows], "wheels")
    return dict(sorted(unique.values(), key=lambda pair: _order(pair[0])))


def _kernels(facts: Facts) -> dict[_Build, Kernels]:
    """Return the stated lists; one list applies to all releases of a minor version."""
    rows = [
        ((_minor(file.release.torch), row.tag, platform), row)
        for file in facts.releases
        for row in file.kernels
        for platform in row.platforms
    ]
    return dict(_unique([(_name(build), (build, row)) for build, row in rows], "kernels").values())


def _evidence(facts: Facts, rows: Iterable[Cited]) -> Document:
    """Return the kinds of evidence that rows cite, each with the newest date of these rows."""
    newest: dict[str, dt.date] = {}
    for row in rows:
        newest[row.evidence] = max(row.checked, newest.get(row.evidence, row.checked))
    known = [kind.name for kind in facts.evidence]
    unknown = sorted(set(newest) - set(known))
    if unknown:
        raise FactError(f"evidence.toml has no `{unknown[0]}`; it has {', '.join(f'`{name}`' for name in known)}")
    return {
        kind.name: {"source": kind.source, "checked": newest[kind.name], "confirmed": kind.confirmed}
        for kind in facts.evidence
        if kind.name in newest
    }


def _table(row: Cited, fields: Sequence[str]) -> Document:
    return {name: getattr(row, name) for name in fields}


def _unique(rows: Sequence[tuple[Any, _Row]], table: str) -> dict[Any, _Row]:
    found: dict[Any, _Row] = {}
    for key, row in rows:
        if key in found:
            raise FactError(f"`[[{table}]]` has {key} twice")
        found[key] = row
    return found


def _order(build: _Build) -> tuple[Version, Version, str]:
    torch, tag, platform = build
    return Version(torch), WheelTag.parse(tag).cuda or Version("0"), platform


def _minor(torch: str) -> str:
    return ".".join(torch.split(".")[:2])


def _name(build: _Build) -> str:
    torch, tag, platform = build
    return f"torch {torch}, {tag}, {platform}"
