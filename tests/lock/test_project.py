"""Test which environment.yml a command finds, and that the commands in hints mean the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.lock.project import find_environment, find_lockfile, project_command


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj" / "src" / "deep").mkdir(parents=True)
    (tmp_path / "proj" / "environment.yml").touch()
    return tmp_path / "proj"


def test_environment_of_project_is_found_from_a_subdirectory(project: Path) -> None:
    assert find_environment(project) == Path("environment.yml")
    assert find_environment(project / "src") == Path("../environment.yml")
    assert find_environment(project / "src" / "deep") == Path("../../environment.yml")
    assert find_lockfile(project / "src") == Path("../conda-lock.yml")


def test_environment_of_an_outer_project_is_not_used(project: Path) -> None:
    inner = project / "src" / "deep"
    (inner / "envforge.toml").touch()
    assert find_environment(inner) == Path("environment.yml")


def test_environment_without_a_project_is_expected_here(tmp_path: Path) -> None:
    assert find_environment(tmp_path) == Path("environment.yml")


def test_lockfile_without_environment_is_found_from_a_subdirectory(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "conda-lock.yml").touch()
    assert find_lockfile(tmp_path / "src") == Path("../conda-lock.yml")


def test_command_names_files_only_if_they_are_not_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "src")
    own, other = Path("../environment.yml"), Path("my env.yml")
    assert project_command("lock", own, None) == "envforge lock"
    assert project_command("add", own, Path("../conda-lock.yml"), ["numpy >=2"]) == "envforge add 'numpy >=2'"
    assert project_command("lock", other, None) == "envforge lock -f 'my env.yml'"
    assert project_command("lock", own, Path("x.yml")) == "envforge lock --lockfile x.yml"
