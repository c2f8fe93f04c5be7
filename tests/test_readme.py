"""Test the README: its transcripts run as printed, its links work, and .ci/run uses its two commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envforge.base import toml
from tests.support.commands import check_command
from tests.support.transcripts import ROOT, run_steps, steps_of

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_transcripts_to_run() -> None:
    assert len(steps_of(README)) >= 4


def test_every_transcript_of_the_readme_says_what_is_printed(tmp_path: Path) -> None:
    run_steps(steps_of(README), tmp_path)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def set_up_commands() -> list[str]:
    """The lines that ``.ci/run`` runs, each in a fresh environment."""
    return re.findall(r"^\$ (pip install .*)$", README, flags=re.MULTILINE)


def test_set_up_commands_are_two_and_name_extras_that_exist() -> None:
    first, second = set_up_commands()
    extras = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert re.fullmatch(r"pip install '\.\[smoke\]' && envforge new \S+ ~/\S+ .*--smoke", first)
    assert re.fullmatch(r"pip install -e '\.\[test\]' && python -m pytest .*", second)
    assert {"smoke", "test"} <= set(extras)


def test_set_up_command_creates_its_project_outside_the_checkout() -> None:
    check_command(set_up_commands()[0].split(" && ")[1])


def test_test_extra_has_each_program_that_the_tests_start() -> None:
    started = {
        canonicalize_name(name)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in re.findall(r'"-m", "([a-z_]+)"', path.read_text(encoding="utf-8"))
        if name not in {"envforge", "pip", "tests"} and name not in sys.stdlib_module_names
    }
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    assert {"mypy", "ruff"} <= started
    assert started - needed - names_in("test", project["optional-dependencies"]) == set()


def names_in(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """The distributions that an extra installs, by itself and by the extras that it includes."""
    found: set[str] = set()
    for requirement in map(Requirement, extras[extra]):
        found |= {requirement.name}.union(*(names_in(each, extras) for each in requirement.extras & set(extras)))
    return found


def test_ci_script_is_sound_and_reads_the_same_two_commands() -> None:
    script = ROOT / ".ci" / "run"
    checker = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if checker is not None:
        done = subprocess.run([checker, str(script)], capture_output=True, text=True, check=False)
        assert done.stdout == ""
    body = re.search(r"^readme_command\(\) .*?^}$", script.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert body is not None
    for number, command in enumerate(set_up_commands(), 1):
        words = ["bash", "-c", f"{body[0]}\nreadme_command {number}"]
        assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == command
