"""Fixtures for locking again: packages of 2024 and of 2026, each with its date."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from envforge.base.urls import MIRRORS_VARIABLE, Mirrors
from envforge.lock.lockfile import update_sha256
from envforge.lock.request import Cutoff, LockRequest
from tests.lock.support import LockFolder, at_work
from tests.lock.torchindex import PUBLIC, TorchIndex, Wheel, wheel
from tests.support.channel import Channel, Package
from tests.support.loopback import Loopback, Request, Response

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = dt.datetime(2024, 3, 1, tzinfo=dt.timezone.utc), dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc)
MIDWAY = Cutoff(at=dt.datetime(2025, 1, 1, tzinfo=dt.timezone.utc))

REGISTRY = "https://registry.example"
ENVIRONMENT = """\
# what this project needs
channels:
  - conda-forge
platforms:
  - linux-64
dependencies:
  - "python >=3.10"
  - base   # the ground
  - plot

  - extra
  - pip:
      - "colours"
"""


def package(
    name: str, version: str, *depends: str, made: dt.datetime | None = OLD, build: str = "0", subdir: str = "linux-64"
) -> Package:
    """A package without files, made at a date."""
    stamp = None if made is None else int(made.timestamp() * 1000)
    return Package(
        name=name, version=version, depends=depends, build=build, subdir=subdir, timestamp_ms=stamp, license="MIT"
    )


@pytest.fixture(scope="session")
def changing_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``plot`` 2 needs ``base`` 2; ``late`` is of 2026 alone; nobody knows how old ``undated`` is."""
    folder = tmp_path_factory.mktemp("changing")
    channel = Channel(folder / "conda-forge")
    channel.add(
        package("python", "3.10.1", build="h0_0_cpython"),
        package("python", "3.12.1", build="h0_0_cpython", made=NEW),
        package("base", "1.0"),
        package("base", "2.0", made=NEW),
        package("plot", "1.0", "base >=1", "python >=3.8"),
        package("plot", "2.0", "base >=2", "python >=3.8", made=NEW),
        package("extra", "1.0"),
        package("extra", "2.0", made=NEW),
        package("wants-new-base", "1.0", "base >=2", made=NEW),
        package("late", "1.0", "python >=3.8", made=NEW),
        package("undated", "1.0", made=None),
        package("colours", "1.0"),
        package("pip", "26.0", "python >=3.8"),
    )
    channel.index()
    _forget_when_indexed(folder / "conda-forge")
    with Loopback(folder) as server:
        yield server.url


def _forget_when_indexed(channel: Path) -> None:
    """Leave the date of each package alone, as conda-forge's repodata does: the indexer adds the present time."""
    for repodata in channel.glob("*/repodata.json"):
        document = json.loads(repodata.read_text(encoding="utf-8"))
        for record in document["packages.conda"].values():
            record.pop("indexed_timestamp", None)
        repodata.write_text(json.dumps(document), encoding="utf-8")
        for other in (*repodata.parent.glob("repodata.json.*"), *repodata.parent.glob("repodata_shards*")):
            other.unlink()


def registry() -> dict[str, list[tuple[Wheel, dt.datetime | None]]]:
    """The wheels of the registry, each with its upload time."""
    return {
        "colours": [(wheel("colours", "1.0"), OLD), (wheel("colours", "2.0"), NEW)],
        "shapes": [(wheel("shapes", "1.0", requires=["colours"]), OLD)],
        "new-shapes": [(wheel("new-shapes", "1.0", requires=["colours>=2"]), OLD)],
        "unknown-age": [(wheel("unknown-age", "1.0"), None)],
    }


@dataclass(kw_only=True)
class Project(LockFolder):
    """One project folder with its servers."""

    wheels: dict[str, list[tuple[Wheel, dt.datetime | None]]] = field(default_factory=registry)
    torch: TorchIndex = field(default_factory=TorchIndex)

    @property
    def mirrors(self) -> Mirrors:
        rules = [f"https://conda.anaconda.org={self.conda_url}", f"{PUBLIC}={self.url}/whl", f"{REGISTRY}={self.url}"]
        return Mirrors.parse(rules)

    def request(self, **changes: Any) -> LockRequest:
        return super().request(**{"python_index": f"{REGISTRY}/simple", **changes})

    def versions(self) -> dict[str, str]:
        return {package.name: package.version for package in self.read().packages if package.name != "pip"}

    def run(self, *words: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        """Run a command line of envforge in the project, or in one of its directories."""
        command = [sys.executable, "-m", "envforge", *words]
        return subprocess.run(
            command, cwd=self.folder / folder, env=self.variables(), capture_output=True, text=True, check=False
        )

    def variables(self) -> dict[str, str]:
        world = self.folder.parent
        return {
            **os.environ,
            MIRRORS_VARIABLE: self.mirrors.to_environment(),
            "PYTHONPATH": str(ROOT),
            "UV_DEFAULT_INDEX": f"{REGISTRY}/simple",
            "XDG_CACHE_HOME": str(world / "cache"),
            "TMPDIR": str(world / "tmp"),
        }

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }

    def answer(self, request: Request) -> Response | None:
        parts = request.path.strip("/").split("/")
        if parts[0] == "whl":
            return self.torch.answer(request)
        if parts[0] == "simple" and len(parts) == 2 and parts[1] in self.wheels:
            entries = [_entry(one, made) for one, made in self.wheels[parts[1]]]
            body = json.dumps({"meta": {"api-version": "1.1"}, "name": parts[1], "files": entries}).encode()
            return Response(body=body, headers={"Content-Type": "application/vnd.pypi.simple.v1+json"})
        wheels = {one.file_name: one for entries in self.wheels.values() for one, _ in entries}
        found = wheels.get(parts[-1].removesuffix(".metadata"))
        if parts[0] != "files" or found is None:
            return Response(body=b"", status=404)
        return Response(body=found.metadata if parts[-1].endswith(".metadata") else found.data)


def _entry(one: Wheel, made: dt.datetime | None) -> dict[str, Any]:
    row = {"filename": one.file_name, "url": f"/files/{one.file_name}", "hashes": {"sha256": one.sha256}}
    return {**row, "core-metadata": True, **({"upload-time": made.isoformat()} if made else {})}


def new_project(world: Path, conda_url: str) -> AbstractContextManager[Project]:
    return at_work(Project(folder=world / "project", conda_url=conda_url), ENVIRONMENT)


@pytest.fixture
def project(tmp_path: Path, changing_channel: str) -> Iterator[Project]:
    """A project that is not locked yet."""
    with new_project(tmp_path / "world", changing_channel) as one:
        yield one


@pytest.fixture(scope="session")
def aged_lock(tmp_path_factory: pytest.TempPathFactory, changing_channel: str) -> str:
    """A lock of 2025, as if nobody had stated a date."""
    with new_project(tmp_path_factory.mktemp("aged") / "world", changing_channel) as one:
        one.lock(exclude_newer=MIDWAY)
        text = one.lockfile.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if "envforge_exclude_newer" not in line]
    assert len(lines) == text.count("\n") - 1
    return update_sha256("".join(lines))


@pytest.fixture
def aged(project: Project, aged_lock: str) -> Project:
    """A project that was locked in 2025 and is free to move now."""
    project.lockfile.write_text(aged_lock, encoding="utf-8")
    return project
