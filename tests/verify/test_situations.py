"""Test how ``verify`` finds projects, lockfiles, and environments: valid, missing, invalid, or incomplete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from envforge.prefix.journal import Journal, write_journal
from envforge.verify.checks import choose
from envforge.verify.discovery import Place, RunContext, find_situation
from envforge.verify.observe import Situation, Surroundings
from envforge.verify.record import ProjectFacts
from tests.prefix.install.support import LockWriter
from tests.support.recorded import Recorded
from tests.verify.environment.torches import RAISES, virtual_environment
from tests.verify.made_up import NOW, asked, check

BASE = "https://channel.invalid/c"
CHECKS = (check("m"), check("e", question="environment"), check("t", question="training"))


def found(folder: Path, explicit: tuple[Any, ...] = (), **place: Any) -> tuple[Situation, Surroundings]:
    means = RunContext(world=Recorded().world(folder), now=NOW, limit_s=9, say=lambda text: None)
    question = asked(*explicit)
    return find_situation(Place(folder=folder, **place), question, choose(question, CHECKS), means)


def project_facts(folder: Path, **place: Any) -> ProjectFacts:
    facts = found(folder, **place)[1].project
    assert facts is not None
    return facts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a lock for this platform, in which nothing is installed."""
    folder = tmp_path / "cats"
    folder.mkdir()
    LockWriter(BASE).write(folder / "conda-lock.yml")
    return folder


def made_of(prefix: Path, lock: Path, step: Any = "verified") -> None:
    (prefix / "conda-meta").mkdir(parents=True)
    write_journal(prefix, Journal(step=step, fingerprint="f", lockfile=str(lock), platform="linux-64", created=True))


def test_in_no_project_the_machine_alone_is_asked(tmp_path: Path) -> None:
    situation, surroundings = found(tmp_path)
    assert (situation.questions, situation.lock, situation.prefix) == (("machine",), None, None)
    assert surroundings.project is None
    assert [lack.what for lack in surroundings.absent] == ["environment", "training"]


def test_in_a_project_without_an_environment_the_install_is_named(project: Path) -> None:
    situation, surroundings = found(project)
    assert (situation.questions, situation.lock) == (("machine",), project / "conda-lock.yml")
    assert {(lack.why, lack.command) for lack in surroundings.absent} == {("absent", "envforge install")}


def test_a_finished_environment_is_asked_all_three_questions(project: Path) -> None:
    made_of(project / ".conda", project / "conda-lock.yml")
    situation, surroundings = found(project)
    assert (situation.questions, surroundings.absent) == (("machine", "environment", "training"), ())
    assert situation.prefix == project / ".conda"


def test_an_unfinished_environment_is_not_asked(project: Path) -> None:
    made_of(project / ".conda", project / "conda-lock.yml", "wheels")
    situation, surroundings = found(project)
    assert (situation.questions, situation.prefix) == (("machine",), None)
    assert [(lack.what, lack.why) for lack in surroundings.absent] == [
        ("environment", "unfinished"),
        ("training", "unfinished"),
    ]
    assert "envforge install" in surroundings.absent[0].command


def test_a_prefix_without_a_project_has_an_environment_but_no_training(tmp_path: Path) -> None:
    made_of(tmp_path / "env", tmp_path / "gone.yml")
    situation, surroundings = found(tmp_path, prefix=tmp_path / "env")
    assert situation.questions == ("machine", "environment")
    assert [lack.what for lack in surroundings.absent] == ["training"]


def test_a_virtual_environment_that_is_named_is_asked_all_three_questions(project: Path) -> None:
    virtual_environment(project / "venv", RAISES)
    situation, surroundings = found(project, prefix=project / "venv")
    assert (situation.questions, surroundings.absent) == (("machine", "environment", "training"), ())
    assert situation.prefix == project / "venv"
    assert situation.lock == project / "conda-lock.yml"  # no journal names another


@pytest.mark.parametrize("gone", ["pyvenv.cfg", "bin/python"])
def test_a_folder_with_half_of_a_virtual_environment_is_none(project: Path, gone: str) -> None:
    (virtual_environment(project / "venv", RAISES) / gone).unlink()
    situation, surroundings = found(project, prefix=project / "venv")
    assert (situation.questions, situation.prefix) == (("machine",), None)
    said = surroundings.absent[0]
    assert "no `conda-meta`, `.envforge` or `pyvenv.cfg`" in said.reason or "without Python" in said.reason
    assert said.command == "envforge verify --prefix DIR"  # never an install into a folder full of other things


def test_an_empty_folder_that_is_named_can_be_installed_into(project: Path) -> None:
    (project / "new").mkdir()
    (said, _) = found(project, prefix=project / "new")[1].absent
    assert (said.reason, said.command) == (
        f"no environment is installed in `{project / 'new'}`",
        f"envforge install --prefix {project / 'new'}",
    )


def test_the_lock_is_the_one_that_the_environment_was_made_from(project: Path) -> None:
    other = LockWriter(BASE).write(project / "other.yml")
    made_of(project / ".conda", other)
    assert found(project)[0].lock == other
    assert found(project, lock=project / "conda-lock.yml")[0].lock == project / "conda-lock.yml"


def test_the_only_variant_is_the_lock(tmp_path: Path) -> None:
    (tmp_path / "envforge.toml").write_text("")
    (tmp_path / "lockfiles" / "cu118").mkdir(parents=True)
    LockWriter(BASE).write(tmp_path / "lockfiles" / "cu118" / "conda-lock.yml")
    assert project_facts(tmp_path).variant == "cu118"


def test_a_lock_that_can_be_read_is_named_by_its_bytes(project: Path) -> None:
    facts = project_facts(project)
    assert (facts.name, facts.lock_file, facts.lock_unreadable) == ("cats", "conda-lock.yml", None)
    assert facts.lock_sha256 is not None
    assert len(facts.lock_sha256) == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "failed to read the lockfile"), (b"version: 1\nmetadata: [", "conda-lock.yml"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_lock_that_cannot_be_read_is_a_fact_with_a_command(project: Path, content: bytes | None, said: str) -> None:
    lock = project / "conda-lock.yml"
    lock.unlink()
    (project / "envforge.toml").write_text("")
    (project / "environment.yml").touch()
    if content is not None:
        lock.write_bytes(content)
    situation, surroundings = found(project)
    assert surroundings.project is not None
    assert said in str(surroundings.project.lock_unreadable)
    assert "envforge lock" in surroundings.project.lock_command
    assert situation.lock is None


def test_a_lock_for_another_platform_is_a_fact_with_a_command(tmp_path: Path) -> None:
    lock = LockWriter(BASE).write(tmp_path / "conda-lock.yml")
    lock.write_text(lock.read_text().replace("linux-64", "osx-arm64"))
    (tmp_path / "environment.yml").touch()
    facts = project_facts(tmp_path)
    assert "`linux-64` is not in the lockfile" in str(facts.lock_unreadable)
    assert facts.lock_command == f"envforge lock -f {tmp_path / 'environment.yml'}"
