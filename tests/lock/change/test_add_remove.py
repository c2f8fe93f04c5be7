"""Test ``envforge add`` and ``remove``, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys

import pytest

from tests.lock.change.conftest import ENVIRONMENT, Project
from tests.lock.change.test_keeping import AGED


def test_add_changes_one_line_and_locks_the_package_beside_what_is_locked(aged: Project) -> None:
    done = aged.run("add", "late>=1")
    assert done.returncode == 0, done.stderr
    changed = ENVIRONMENT.replace("  - extra\n", '  - extra\n  - "late >=1"\n')
    assert aged.environment.read_text(encoding="utf-8") == changed
    assert aged.versions() == {**AGED, "late": "1.0"}
    assert done.stdout.startswith("environment.yml changed:\n  + late >=1\nconda-lock.yml written")
    assert aged.run("lock", "--check").returncode == 0
    assert sorted(aged.files()) == ["conda-lock.yml", "environment.yml"]


def test_add_pip_and_remove_bring_back_the_same_packages(aged: Project) -> None:
    packages = aged.read().packages
    added = aged.run("add", "--pip", "shapes", "--json")
    document = json.loads(added.stdout)
    assert (document["command"], document["result"]["added"]) == ("add", ["shapes"])
    assert document["result"]["lock"]["changes"] == ["+ shapes 1.0"]
    assert added.stderr.startswith("solving for linux-64\n")
    removed = aged.run("remove", "shapes")
    assert removed.returncode == 0, removed.stderr
    assert aged.environment.read_text(encoding="utf-8") == ENVIRONMENT
    assert aged.read().packages == packages


def test_a_solve_that_fails_leaves_both_files_byte_for_byte(aged: Project) -> None:
    before = aged.files()
    failed = aged.run("add", "nowhere-to-be-had")
    assert failed.returncode == 1
    assert "nowhere-to-be-had" in failed.stderr
    assert "`environment.yml` and `conda-lock.yml` are unchanged" in failed.stderr
    assert aged.files() == before


def test_a_torch_package_is_refused_with_the_commands_that_choose_one(aged: Project) -> None:
    before = aged.files()
    failed = aged.run("add", "--pip", "torchvision")
    assert failed.returncode == 2
    assert "hint: to list the builds that this machine supports, run `envforge explain`" in failed.stderr
    assert aged.files() == before


def test_dry_run_shows_changes_and_writes_nothing(aged: Project) -> None:
    before = aged.files()
    added = aged.run("add", "--dry-run", "late")
    assert added.returncode == 0, added.stderr
    lines = added.stdout.splitlines()
    assert lines[:3] == ["environment.yml would change:", "  + late", lines[2]]
    assert lines[2].startswith("conda-lock.yml would be written")
    assert lines[-3:] == ["changes:", "  + late 1.0", "dry run: nothing was written"]
    removed = json.loads(aged.run("remove", "--dry-run", "plot", "--json").stdout)["result"]
    assert (removed["dry_run"], removed["lock"]["changes"]) == (True, ["- plot 1.0"])
    assert aged.files() == before


def test_dry_run_does_not_complete_an_interrupted_change(aged: Project) -> None:
    (aged.folder / ".environment.yml.envforge-change").write_text('{"version": 1, "files": []}', encoding="utf-8")
    before = aged.files()
    failed = aged.run("add", "--dry-run", "late")
    assert failed.returncode == 1
    assert "hint: to complete it, run `envforge lock`" in failed.stderr
    assert aged.files() == before
    assert aged.run("lock").returncode == 0
    assert aged.run("add", "--dry-run", "late").returncode == 0


def test_add_and_lock_in_a_subdirectory_change_the_project(aged: Project) -> None:
    (aged.folder / "src").mkdir()
    added = aged.run("add", "late", folder="src")
    assert added.returncode == 0, added.stderr
    assert added.stdout.startswith("../environment.yml changed:\n  + late\n../conda-lock.yml written")
    assert aged.versions()["late"] == "1.0"
    checked = aged.run("lock", "--check", folder="src")
    assert checked.stdout == "../conda-lock.yml is up to date with ../environment.yml\n"
    aged.write(ENVIRONMENT)
    stale = aged.run("lock", "--check", folder="src")
    assert (stale.returncode, stale.stderr) == (1, "\nhint: to update it, run `envforge lock`\n")


@pytest.mark.parametrize(
    ("words", "code", "hint", "commands"),
    [
        (["plott"], "no-such-package", "did you mean `plot`?", []),
        (["--pip", "colors"], "no-such-package", "did you mean `colours`?", []),
        (
            ["shapes"],
            "no-such-package",
            "to install `shapes` from the package index instead, run `envforge add --pip shapes`",
            ["envforge add --pip shapes"],
        ),
        (
            ["--pip", "late"],
            "no-such-package",
            "to install `late` from conda instead, run `envforge add late`",
            ["envforge add late"],
        ),
        (["late >=7"], "no-solution", "change the version constraint to one that matches", []),
    ],
)
def test_unknown_package_gets_a_hint_that_works(
    aged: Project, words: list[str], code: str, hint: str, commands: list[str]
) -> None:
    error = json.loads(aged.run("add", *words, "--json").stdout)["error"]
    assert (error["code"], error["hint"], error["commands"]) == (code, hint, commands)
    for command in commands:
        done = aged.run(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr


def test_add_makes_the_first_lock_too(project: Project) -> None:
    assert project.run("add", "late").returncode == 0
    assert project.versions()["late"] == "1.0"


def test_interrupted_during_the_solve_both_files_stay(aged: Project) -> None:
    before = aged.files()
    command = [sys.executable, "-m", "envforge", "add", "late"]
    variables = aged.variables()
    with subprocess.Popen(
        command, cwd=aged.folder, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "solving for linux-64\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert aged.files() == before
