"""Environments are solved and installed from the real channels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envforge.base.data_files import templates_root
from envforge.lock.lockfile import read_lockfile
from envforge.project.templates import list_templates
from envforge.pytorch.matrix import load_matrix

ENVFORGE = [sys.executable, "-m", "envforge"]
NEWEST = str(load_matrix().tags[-1])
SMALL = """\
channels: [conda-forge]
platforms: [linux-64]
dependencies:
  - python =3.12
  - pip
  - pip:
      - filelock
"""


def envforge(folder: Path, *words: str) -> str:
    """Run a command; fail with its output unless it exits with 0."""
    done = subprocess.run([*ENVFORGE, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("tag", ["cpu", "cu118", NEWEST])
@pytest.mark.parametrize("template", list_templates(templates_root()))
def test_lockfile_of_each_template_solves(template: str, tag: str, tmp_path: Path) -> None:
    options = ["--cuda", tag, "--platform", "linux-64", "--fresh", "--defaults"]
    envforge(tmp_path, "new", template, "digits", *options)
    envforge(tmp_path / "digits", "lock", "--check")
    packages = {package.name: package for package in read_lockfile(tmp_path / "digits" / "conda-lock.yml").packages}
    assert packages["torch"].version.endswith(f"+{tag}")
    assert packages["torch"].url.startswith("https://download.pytorch.org/whl/")
    assert [package.name for package in packages.values() if package.sha256 is None] == []


@pytest.mark.parametrize("platform", ["osx-arm64", "win-64"])
def test_lockfile_for_another_system_solves(platform: str, tmp_path: Path) -> None:
    envforge(tmp_path, "new", "tabular", "digits", "--cuda", "cpu", "--platform", platform, "--fresh", "--defaults")
    assert read_lockfile(tmp_path / "digits" / "conda-lock.yml").platforms == (platform,)


@pytest.mark.linux
def test_small_environment_locks_installs_and_runs(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(SMALL, encoding="utf-8")
    envforge(tmp_path, "lock", "--verify-hashes")
    envforge(tmp_path, "install", "--cache", "cache")
    shown = envforge(tmp_path, "run", "python", "-c", "import filelock, sys; print(sys.version_info[:2])")
    assert shown == "(3, 12)\n"
    envforge(tmp_path, "audit", "--full")


@pytest.mark.linux
def test_project_of_the_catalogue_installs_and_passes_its_smoke_test(tmp_path: Path) -> None:
    options = ["--cuda", "cpu", "--platform", "linux-64", "--defaults"]
    envforge(tmp_path, "new", "tabular", "digits", *options)
    project = tmp_path / "digits"
    envforge(project, "install", "--cache", str(tmp_path / "cache"))
    envforge(project, "run", "python", "-m", "digits.smoke")


def test_lock_is_the_same_when_it_is_solved_again(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "environment.yml").write_text(SMALL, encoding="utf-8")
        envforge(folder, "lock", "--exclude-newer", "2026-11-01")
        texts.append((folder / "conda-lock.yml").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
