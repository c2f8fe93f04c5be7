"""Test the executable with real conda-lock, in the scenarios that were recorded with real conda."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct

from envforge.lock.condalock import solver_launcher
from tests.support.loopback import Loopback

ENVIRONMENT = "dependencies: [python 3.12.*, pyhello, libb >=1.0]"
PUBLIC = "https://conda.anaconda.org/tiny"


class Project(Struct, frozen=True, kw_only=True):
    """A folder in which conda-lock runs with our executable as its conda."""

    folder: Path
    channel: str
    environment: dict[str, str]

    def write(self, text: str, *, platforms: str = "linux-64", channel: str | None = None) -> None:
        lines = [f"channels: [{channel or self.channel}]", f"platforms: [{platforms}]", text]
        (self.folder / "environment.yml").write_text("\n".join(lines) + "\n")

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        conda = solver_launcher(self.folder)
        command = [sys.executable, "-m", "conda_lock", "lock", "--conda", str(conda), "-f", "environment.yml", *words]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def lock(self, *words: str, **environment: str) -> list[dict[str, Any]]:
        done = self.run(*words, **environment)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load((self.folder / "conda-lock.yml").read_text())["package"])

    def versions(self, *words: str, **environment: str) -> dict[str, str]:
        return {package["name"]: package["version"] for package in self.lock(*words, **environment)}


@pytest.fixture
def project(tmp_path: Path, channel: Path) -> Project:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment = {**kept, "HOME": str(tmp_path / "home"), "RATTLER_CACHE_DIR": str(tmp_path / "cache")}
    return Project(folder=tmp_path, channel=channel.as_uri(), environment=environment)


def test_a_lock_names_the_file_and_the_hashes_of_each_package(project: Project, channel: Path) -> None:
    project.write(ENVIRONMENT)

    packages = {package["name"]: package for package in project.lock()}

    assert sorted(packages) == ["liba", "libb", "pyhello", "python", "tinydata"]
    known = json.loads((channel / "linux-64/repodata.json").read_text())["packages.conda"]["libb-1.1-0.conda"]
    assert packages["libb"] == {
        "name": "libb",
        "version": "1.1",
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {"liba": ">=1.0,<2.0a0"},
        "url": f"{channel.as_uri()}/linux-64/libb-1.1-0.conda",
        "hash": {"md5": known["md5"], "sha256": known["sha256"]},
        "category": "main",
        "optional": False,
    }


def test_an_unchanged_request_keeps_the_lock_without_a_solve(project: Project) -> None:
    project.write(ENVIRONMENT)
    project.lock()
    before = (project.folder / "conda-lock.yml").read_bytes()

    done = project.run("--check-input-hash", ENVFORGE_SOLVE_RECORDS=str(project.folder / "records"))

    assert done.returncode == 0, done.stderr
    assert (project.folder / "conda-lock.yml").read_bytes() == before
    assert not (project.folder / "records").exists()


def test_each_platform_is_locked_for_itself(project: Project) -> None:
    project.write("dependencies: [python, libb]", platforms="linux-64, osx-arm64")

    packages = project.lock(ENVFORGE_SOLVE_RECORDS=str(project.folder / "records"))

    found = {(package["platform"], package["name"], package["version"]) for package in packages}
    assert {entry for entry in found if entry[1] == "python"} == {
        ("linux-64", "python", "3.13.0"),
        ("osx-arm64", "python", "3.12.1"),
    }
    documents = [json.loads(path.read_text()) for path in (project.folder / "records").iterdir()]
    assert sorted(document["platform"] for document in documents) == ["linux-64", "osx-arm64"]


def test_an_update_moves_the_named_package_and_leaves_the_rest(project: Project) -> None:
    project.write("dependencies: [python 3.12.*, pyhello 1.0.*, libb 1.0.*]")
    assert project.versions()["libb"] == "1.0"
    project.write(ENVIRONMENT)

    moved = project.versions("--update", "libb")

    assert moved == {"liba": "1.5", "libb": "1.1", "pyhello": "1.0.0", "python": "3.12.1", "tinydata": "2024b"}
    assert project.versions("--update", "libb") == moved


def test_a_missing_version_is_shown_without_a_lock(project: Project) -> None:
    project.write("dependencies: [python 3.12.*, libb >=9]")

    done = project.run()

    assert done.returncode == 1
    assert "  - libb >=9 (available: 1.1, 1.0)" in done.stderr
    assert not (project.folder / "conda-lock.yml").exists()


def test_a_conflict_is_shown_without_a_lock(project: Project) -> None:
    project.write("dependencies: [libb, liba 2.0.*]")

    done = project.run()

    assert done.returncode == 1
    assert "libb 1.0 | 1.1 would require" in done.stderr
    assert not (project.folder / "conda-lock.yml").exists()


def test_an_explicit_lock_can_be_made(project: Project, channel: Path) -> None:
    project.write(ENVIRONMENT)

    assert project.run("-k", "explicit", "-p", "linux-64").returncode == 0

    lines = (project.folder / "conda-linux-64.lock").read_text().splitlines()
    assert "@EXPLICIT" in lines
    assert any(line.startswith(f"{channel.as_uri()}/linux-64/libb-1.1-0.conda#") for line in lines)


@pytest.mark.parametrize(("words", "build"), [(("--with-cuda", "12.4"), "cuda_1"), (("--without-cuda",), "cpu_0")])
def test_cuda_is_what_conda_lock_states(project: Project, words: tuple[str, ...], build: str) -> None:
    project.write("dependencies: [cudaapp, libc-user]")

    packages = {package["name"]: package for package in project.lock(*words)}

    assert packages["cudaapp"]["url"].endswith(f"cudaapp-1.0-{build}.conda")
    assert packages["libc-user"]["version"] == "1.0"


def test_a_file_of_virtual_packages_is_obeyed(project: Project) -> None:
    project.write("dependencies: [libc-user]")
    stated = {"subdirs": {"linux-64": {"packages": {"__glibc": "2.39"}}}}
    (project.folder / "virtual.yml").write_text(yaml.safe_dump(stated))

    assert project.versions("--virtual-package-spec", "virtual.yml") == {"libc-user": "2.0"}


def test_a_lock_made_from_a_mirror_names_the_public_address(project: Project, channel: Path) -> None:
    project.write("dependencies: [python 3.12.*, tiny::libb 1.0]", channel="tiny")

    with Loopback(channel) as server:
        mirrors = {"ENVFORGE_MIRRORS": f"{PUBLIC}={server.url}"}
        packages = {package["name"]: package for package in project.lock(**mirrors)}
        project.write("dependencies: [python 3.12.*, tiny::libb]", channel="tiny")
        updated = {package["name"]: package for package in project.lock("--update", "libb", **mirrors)}

    assert packages["libb"]["url"] == f"{PUBLIC}/linux-64/libb-1.0-0.conda"
    assert packages["tinydata"]["url"] == f"{PUBLIC}/noarch/tinydata-2024b-0.conda"
    assert updated == {**packages, "libb": updated["libb"]}
    assert updated["libb"]["url"] == f"{PUBLIC}/linux-64/libb-1.1-0.conda"


def test_credentials_of_a_channel_stay_out_of_lock_records_and_errors(project: Project, channel: Path) -> None:
    with Loopback(channel) as server:
        secret = {"PASSWORD": "s3cret", "USERNAME": "joe", "ENVFORGE_SOLVE_RECORDS": str(project.folder / "records")}
        address = server.url.replace("://", "://$USERNAME:$PASSWORD@")
        project.write("dependencies: [libb]", channel=f"'{address}'")
        packages = project.lock(**secret)
        project.write("dependencies: [libb >=9]", channel=f"'{address}'")
        done = project.run("--lockfile", "other.yml", **secret)

    assert packages[1]["url"].startswith("http://${USERNAME}:${PASSWORD}@127.0.0.1")
    (record,) = (project.folder / "records").iterdir()
    assert "s3cret" not in record.read_text()
    message = done.stderr.partition("    Command: ")[0]
    assert "  - libb >=9" in message
    assert "s3cret" not in message
