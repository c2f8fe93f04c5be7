"""The README is true: its transcripts run as printed, its links lead somewhere, and .ci/run proves its two commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envforge import toml
from tests.support.commands import check_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    """One command with the output that the README promises; ``...`` stands for anything."""

    command: str
    expected: str

    def matches(self, output: str) -> bool:
        pattern = re.escape(self.expected.strip()).replace(r"\.\.\.", ".*")
        return re.fullmatch(pattern, output.strip(), flags=re.DOTALL) is not None


def transcript() -> list[Step]:
    """All ``console`` blocks as one session."""
    steps = []
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            steps.append(Step(command, expected))
    return steps


def test_readme_has_transcripts_to_run() -> None:
    assert len(transcript()) >= 4


def test_every_transcript_of_the_readme_says_what_is_printed(tmp_path: Path) -> None:
    folder = tmp_path
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "ENVFORGE_"))}
    environment = kept | {"NO_COLOR": "1", "COLUMNS": "80"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for step in transcript():
        program, *arguments = shlex.split(step.command)
        if program == "cd":
            folder /= arguments[0]
            continue
        assert program == "envforge"
        run = subprocess.run(
            [sys.executable, "-m", "envforge", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert step.matches(run.stdout), f"$ {step.command}\n{run.stdout}\n--- promised ---\n{step.expected}"


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
