"""Build the catalogue: solve each target against the recorded packages, check every file, write `lockfiles/`.

The same facts produce the same bytes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Struct

from envforge.lock.lockfile import LockedPackage, Lockfile, parse_lockfile
from envforge.lock.locking import lock
from envforge.lock.needs import requirements_json, requirements_of
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE
from envforge.lock.request import LockRequest
from envforge.pytorch.matrix import Matrix, Selection, load_matrix
from tools.catalogue.records import Channel, CondaRecords
from tools.catalogue.select_target import Plan, plan, read_targets
from tools.catalogue.torch_index import FolderServer, mirrors_to, write_torch_index
from tools.catalogue.wheels import Wheel, WheelFacts
from tools.facts.read import FACTS, read_releases
from tools.facts.rows import CondaRecord

INDEX_FILE = "index.json"
PROVENANCE_FILE = "PROVENANCE.json"
CONDA_FORGE = "conda-forge"


class BuildError(Exception):
    """A lockfile that may not enter the catalogue."""


class Built(Struct, frozen=True):
    """A solved target: the text of its lockfile, its index entry, and the source of each of its files."""

    name: str
    text: str
    entry: Mapping[str, Any]
    sources: Mapping[str, tuple[str, str, str]]


@dataclass(kw_only=True)
class Builder:
    """A solver of targets, against the facts, or against a copy of conda-forge if there is one.

    `used` has the records of the packages in the lockfiles solved so far.
    """

    root: Path
    facts: Path = FACTS
    channel: Channel | None = None
    matrix: Matrix = field(default_factory=load_matrix)
    records: CondaRecords = field(init=False)
    wheels: WheelFacts = field(init=False)
    used: dict[str, CondaRecord] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.records = CondaRecords.read(self.facts / CONDA_FORGE)
        self.wheels = WheelFacts.read(self.facts / "wheels")

    def build(self) -> tuple[Built, ...]:
        """Solve and check every target."""
        plans = [plan(target, self.matrix, self.root / "templates") for target in read_targets()]
        return tuple(self.one(each) for each in plans)

    def one(self, planned: Plan) -> Built:
        """Solve one target; raise `BuildError` or `RecordError` if a file of the lockfile is not a recorded one."""
        wheels = {wheel.url: wheel for wheel in _wheels(planned.selection, self.wheels)}
        with tempfile.TemporaryDirectory(prefix="catalogue-") as name:
            text, solved = self._solve(planned, wheels.values(), Path(name))
        records = self.channel.records_of(solved.packages, self.records) if self.channel else self.records
        found = {p.url: _checked(p, records, wheels) for p in solved.packages}
        self.used |= {url: each for url, each in found.items() if isinstance(each, CondaRecord)}
        file = planned.target.file
        return Built(
            name=file,
            text=text,
            entry=entry_of(
                planned,
                file,
                text,
                sizes={each.sha256: each.size for each in found.values() if each.size is not None},
                date=self._date(planned.selection, found.values()),
                matrix=self.matrix,
            ),
            sources={url: _sources(each) for url, each in found.items()},
        )

    def _solve(self, planned: Plan, wheels: Iterable[Wheel], folder: Path) -> tuple[str, Lockfile]:
        served = folder / "served"
        write_torch_index(served, str(planned.target.tag), wheels)
        if self.channel is None:
            self.records.write_channel(served / CONDA_FORGE)
        else:
            (served / CONDA_FORGE).symlink_to(self.channel.folder.resolve(), target_is_directory=True)
        work = folder / "work"
        work.mkdir()
        (work / ENVIRONMENT_FILE).write_text(planned.texts.environment, encoding="utf-8", newline="\n")
        (work / VIRTUAL_PACKAGES_FILE).write_text(planned.texts.virtual_packages, encoding="utf-8", newline="\n")
        with _cache_in(folder / "cache"), FolderServer(served) as server:
            request = LockRequest(
                environment=work / ENVIRONMENT_FILE, lockfile=work / LOCK_FILE, mirrors=mirrors_to(server.url)
            )
            report = lock(request)
        return (work / LOCK_FILE).read_text(encoding="utf-8"), report.lock

    def _date(self, selection: Selection, found: Iterable[CondaRecord | Wheel]) -> dt.date:
        """Return the date of the newest conda record, or of the torch release if it is newer."""
        dates = [each.date for each in found if isinstance(each, CondaRecord) and each.date is not None]
        releases = {file.release.torch: file.release.date for file in read_releases(self.facts)}
        return max([*dates, releases[str(selection.build.torch)]])


def entry_of(
    planned: Plan, file: str, text: str, *, sizes: Mapping[str, int], date: dt.date, matrix: Matrix
) -> Mapping[str, Any]:
    """Return the index entry of a lockfile; ``sizes`` are bytes by sha256."""
    target = planned.target
    needs = requirements_of(parse_lockfile(text, file), target.platform, matrix, sizes)
    return {
        "template": target.template,
        "variant": str(target.tag),
        "platforms": [target.platform],
        "file": file,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "input_sha256": planned.texts.sha256,
        "date": date.isoformat(),
        "selection": _selection(planned.selection),
        "requirements": requirements_json(needs),
    }


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Keep downloads from loopback out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def write(builts: Iterable[Built], folder: Path) -> None:
    """Replace the lockfiles, the index, and the provenance in ``folder``; other files are kept."""
    builts = sorted(builts, key=lambda built: built.name)
    for old in sorted({built.name.split("/", 1)[0] for built in builts}):
        shutil.rmtree(folder / old, ignore_errors=True)
    for built in builts:
        path = folder / built.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(built.text, encoding="utf-8", newline="\n")
    _write_json(folder / INDEX_FILE, {"schema_version": 1, "entries": [built.entry for built in builts]})
    _write_json(folder / PROVENANCE_FILE, {"schema_version": 1, "groups": _groups(builts)})


def _groups(builts: Iterable[Built]) -> list[Mapping[str, Any]]:
    """Group files that have the same sources."""
    groups: dict[tuple[str, str, str], set[str]] = {}
    for built in builts:
        for url, sources in built.sources.items():
            groups.setdefault(sources, set()).add(url)
    return [
        {"address": address, "sha256": sha256, "requirements": requirements, "files": sorted(files)}
        for (address, sha256, requirements), files in sorted(groups.items())
    ]


def _wheels(selection: Selection, facts: WheelFacts) -> tuple[Wheel, ...]:
    build = selection.build
    if build.torchvision is None:
        raise BuildError(f"no torchvision belongs to torch {build.torch}")
    python = f"cp{selection.python.major}{selection.python.minor}"
    return facts.wheels(build.pin(build.torch), build.pin(build.torchvision), python, build.platform)


def _checked(package: LockedPackage, records: CondaRecords, wheels: Mapping[str, Wheel]) -> CondaRecord | Wheel:
    """Return the recorded fact of a locked package; raise if there is none, or if the lockfile disagrees."""
    if package.manager == "conda":
        return records.of(package)
    wheel = wheels.get(package.url)
    if wheel is None or wheel.sha256 != package.sha256:
        raise BuildError(f"{package.url} with sha256 {package.sha256} is not a recorded wheel")
    return wheel


def _sources(found: CondaRecord | Wheel) -> tuple[str, str, str]:
    if isinstance(found, CondaRecord):
        source = f"{found.source}, {found.checked.isoformat()}; the URL is the channel, the subdir, and the file name"
        return source, source, source
    return found.address_source, found.sha256_source, found.requires.source


def _selection(selection: Selection) -> Mapping[str, Any]:
    build = selection.build
    return {
        "torch": str(build.torch),
        "torchvision": str(build.torchvision) if build.torchvision else None,
        "tag": str(build.tag),
        "python": str(selection.python),
        "index_url": selection.index_url,
    }


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
