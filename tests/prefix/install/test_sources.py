"""Source distributions run their own code, so they are built only if the user allows it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.plan import make_plan, read_any_lock
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Fault, Loopback
from tests.support.wheel import sha256_of

LOCKS = Path(__file__).parents[4] / "shared" / "data" / "lockfiles"
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "handmade"
version = "1.0"
"""
BACKEND = """
import os, zipfile

FILES = {
    "handmade.py": "WORDS = 'made here'\\n",
    "handmade-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: handmade\\nVersion: 1.0\\n",
    "handmade-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "handmade-1.0-py3-none-any.whl"
    record = "".join(f"{path},,\\n" for path in [*FILES, "handmade-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, text in {**FILES, "handmade-1.0.dist-info/RECORD": record}.items():
            archive.writestr(path, text)
    return name
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, channel: Channel) -> Path:
    """The channel's folder with a source distribution beside its wheels."""
    path = channel.folder / "wheels" / "handmade-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {"pyproject.toml": PROJECT, "backend.py": BACKEND, "PKG-INFO": ""}.items():
            member = tarfile.TarInfo(f"handmade-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return channel.folder


@pytest.fixture
def lock_of_sources(lock: LockWriter, folder: Path, channel: Channel, tmp_path: Path) -> Path:
    source = folder / "wheels" / "handmade-1.0.tar.gz"
    row = {"name": "handmade", "version": "1.0", "manager": "pip", "platform": SUBDIR, "dependencies": {}}
    row |= {"url": f"{lock.base}/wheels/{source.name}", "hash": {"sha256": sha256_of(source)}, "category": "main"}
    lock.conda(channel.packages["python"]).rows.append(row)
    return lock.write(tmp_path / "conda-lock.yml")


def test_a_source_distribution_is_refused_by_default(lock_of_sources: Path, place: Place, server: Loopback) -> None:
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock_of_sources)
    assert caught.value.code == "not-installable"
    assert "`handmade 1.0`" in caught.value.message
    assert "--allow-builds" in caught.value.hint
    assert server.requests == ()


def test_an_allowed_source_distribution_is_checked_built_and_installed(lock_of_sources: Path, place: Place) -> None:
    report = place.install(lock_of_sources, allow_builds=True)
    assert any("handmade 1.0" in warning for warning in report.warnings)
    program = place.prefix / "bin" / "python"
    done = subprocess.run(
        [program, "-c", "import handmade; print(handmade.WORDS)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "made here\n"
    assert place.install(lock_of_sources, allow_builds=True).outcome == "unchanged"


def test_a_source_distribution_that_differs_from_the_lock_is_not_built(
    lock_of_sources: Path, place: Place, server: Loopback
) -> None:
    server.fail("/wheels/handmade-1.0.tar.gz", Fault(corrupt=True))
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock_of_sources, allow_builds=True)
    assert caught.value.code == "checksum-mismatch"
    assert not place.prefix.exists()


def test_a_package_of_a_git_repository_is_refused_with_its_address(lock: LockWriter, tmp_path: Path) -> None:
    url = "git+https://code.example/team/tool.git@f337da0f5c24af44eb982d7c39fe81e9bc1d5017"
    row = {"name": "tool", "version": "1.0", "manager": "pip", "platform": SUBDIR, "dependencies": {}, "url": url}
    lock.rows.append(row | {"hash": {"sha256": "f337da0f5c24af44eb982d7c39fe81e9bc1d5017"}, "category": "main"})
    path = lock.write(tmp_path / "conda-lock.yml")
    with pytest.raises(EnvforgeError) as caught:
        make_plan(read_any_lock(path, SUBDIR), SUBDIR, path, allow_builds=True)
    assert caught.value.code == "not-installable"
    assert url in caught.value.message


FROM_GIT = "CCRI-POPROX__poprox-recommender__conda-lock.yml"
REAL = sorted(path.name for path in LOCKS.glob("*.yml") if path.name != FROM_GIT)


@pytest.mark.skipif(not LOCKS.is_dir(), reason="the real locks are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_locks_of_others_are_planned_for_all_their_platforms(name: str) -> None:
    locked = read_any_lock(LOCKS / name, SUBDIR)
    for platform in locked.platforms:
        plan = make_plan(locked, platform, LOCKS / name, allow_builds=True)
        assert len(plan.conda) > 50
        assert plan.fingerprint


@pytest.mark.skipif(not LOCKS.is_dir(), reason="the real locks are not here")
def test_a_real_lock_with_git_repositories_is_read_and_refused_by_name() -> None:
    locked = read_any_lock(LOCKS / FROM_GIT, SUBDIR)
    with pytest.raises(EnvforgeError, match=r"`poprox-concepts 0\.0\.1`: it comes from a git repository"):
        make_plan(locked, "linux-64", LOCKS / FROM_GIT, allow_builds=True)


@pytest.mark.skipif(not LOCKS.is_dir(), reason="the real locks are not here")
def test_a_real_explicit_file_is_planned_with_a_warning_for_md5() -> None:
    path = LOCKS / "other" / "Ethanator__hubmap-organ-segmentation__conda-linux-64.lock"
    plan = make_plan(read_any_lock(path, "linux-64"), "linux-64", path)
    assert len(plan.conda) == 133
    assert "MD5" in plan.warnings[0]
