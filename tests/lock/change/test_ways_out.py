"""Test that commands in errors about a lock work as printed, for several environment files and another lockfile."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable

import pytest
from msgspec import Struct

from envforge.lock.edit import Edit
from envforge.lock.locking import change
from tests.lock.change.conftest import Project

FILES = ("-f", "a.yml", "-f", "b.yml", "--lockfile", "x.lock.yml")
CATEGORIES = ("--category", "docs", "--category", "main")
HEAD = "channels: [conda-forge]\nplatforms: [linux-64]\n"


class Case(Struct, frozen=True, kw_only=True):
    """A command that fails with ``code`` (empty for one that only prints its hint), and the files before it.

    ``prepare`` runs between a first lock, which is made if ``is_locked``, and the command.
    """

    command: tuple[str, ...]
    code: str = ""
    a: str = "- python\n- base\n"
    b: str = "- extra\n"
    is_locked: bool = True
    categories: tuple[str, ...] = ()
    prepare: Callable[[Project], object] = lambda project: None


def write(project: Project, name: str, lines: str) -> None:
    category = "category: docs\n" if name == "b.yml" else ""
    (project.folder / name).write_text(f"{HEAD}{category}dependencies:\n{lines}", encoding="utf-8")


def interrupt(project: Project) -> None:
    """Leave a change of both files incomplete, as a crash does, and edit one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envforge.lock.project.complete_transaction", lambda anchor: True)
        request = project.request(
            environment=project.folder / "a.yml",
            others=(project.folder / "b.yml",),
            lockfile=project.folder / "x.lock.yml",
        )
        change(request, lambda text: Edit(text=f"{text}- late\n"))


def interrupt_and_edit(project: Project) -> None:
    interrupt(project)
    with (project.folder / "x.lock.yml").open("a", encoding="utf-8") as stream:
        stream.write("# edited\n")


CASES = {
    "cannot-edit": Case(command=("remove", "base"), code="cannot-edit", a="- python\n- &x base\n- plot\n- *x\n"),
    "several-lines": Case(command=("add", "base 1"), code="several-lines", a="- python\n- base >=1\n- base <2\n"),
    "limited-line": Case(command=("add", "late"), code="limited-line", a="- python\n- late  # [win]\n"),
    "two-owners": Case(command=("add", "colours"), code="two-owners", a="- python\n- pip: [shapes, colours]\n"),
    "in-another-file": Case(command=("remove", "late"), code="not-asked-for", b="- extra\n- late\n"),
    "only-package": Case(command=("remove", "python"), code="only-package", a="- python\n"),
    "unknown-conda-package": Case(command=("lock",), code="no-such-package", b="- extra\n- shapes\n", is_locked=False),
    "nothing-to-upgrade": Case(
        command=("lock", "--upgrade-package", "base"), code="not-locked", is_locked=False, categories=CATEGORIES
    ),
    "package-to-upgrade": Case(command=("lock", "--upgrade-package", "late"), code="not-locked"),
    "nothing-to-check": Case(
        command=("lock", "--check"), code="lockfile-unreadable", is_locked=False, categories=CATEGORIES
    ),
    "not-up-to-date": Case(
        command=("lock", "--check"), categories=CATEGORIES, prepare=lambda p: write(p, "b.yml", "- extra\n- late\n")
    ),
    "install-locked": Case(
        command=("install", "--locked", "x.lock.yml"),
        code="lock-stale",
        categories=CATEGORIES,
        prepare=lambda p: write(p, "b.yml", "- extra\n- late\n"),
    ),
    "incomplete": Case(command=("add", "undated", "--dry-run"), code="half-changed", prepare=interrupt),
    "edited-since": Case(command=("add", "undated"), code="edited-since", prepare=interrupt_and_edit),
}


@pytest.mark.parametrize("name", CASES)
def test_command_in_an_error_works_for_all_files(project: Project, name: str) -> None:
    case = CASES[name]
    write(project, "a.yml", case.a)
    write(project, "b.yml", case.b)
    if case.is_locked:
        made = project.run("lock", *FILES, *case.categories)
        assert made.returncode == 0, made.stderr
    case.prepare(project)
    options = FILES if case.command[0] != "install" else ()
    categories = case.categories if case.command[0] == "lock" else ()
    failed = project.run(*case.command, *options, *categories, *(["--json"] if case.code else []))
    if case.code:
        error = json.loads(failed.stdout)["error"]
        assert error["code"] == case.code, error
        commands = error["commands"]
    else:
        commands = re.findall("run `([^`]+)`", failed.stderr)
    assert commands
    for one in shlex_parts(commands[0].replace("NAME", "late")):
        if one[0] == "rm":
            subprocess.run(one, cwd=project.folder, check=True)
            continue
        assert " ".join(FILES[-2:]) in " ".join(one)
        done = project.run(*one[1:])
        assert done.returncode == 0, (one, done.stderr)
    checked = project.run("lock", "--check", *FILES, *case.categories)
    assert checked.returncode == 0, (commands, checked.stdout)


def shlex_parts(line: str) -> list[list[str]]:
    """The commands of a line, without the ``&&`` between them."""
    return [shlex.split(part) for part in line.split(" && ")]


def test_add_and_remove_keep_the_categories_of_the_lockfile(project: Project) -> None:
    write(project, "a.yml", "- python\n- base\n")
    write(project, "b.yml", "- extra\n")
    assert project.run("lock", *FILES, "--category", "main").returncode == 0
    for words in (("add", "late"), ("remove", "late")):
        done = project.run(*words, *FILES)
        assert done.returncode == 0, done.stderr
        assert project.run("lock", "--check", *FILES, "--category", "main").returncode == 0


def test_check_with_one_of_several_files_names_the_others(project: Project) -> None:
    write(project, "a.yml", "- python\n- base\n")
    write(project, "b.yml", "- extra\n")
    assert project.run("lock", *FILES).returncode == 0
    checked = project.run("lock", "--check", "-f", "a.yml", "--lockfile", "x.lock.yml")
    assert "the environment files `a.yml` are requested" in checked.stdout
    every, one = re.findall("run `([^`]+)`", checked.stderr)
    assert every == "envforge lock -f a.yml -f b.yml --lockfile x.lock.yml --check"
    assert one == "envforge lock -f a.yml --lockfile x.lock.yml"
    assert project.run(*shlex.split(every)[1:]).returncode == 0
