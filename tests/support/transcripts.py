"""Run the ``console`` blocks of a Markdown page as one session and compare what they print.

``...`` in the expected output stands for any text. ``envforge run python`` runs this interpreter, because the tests
have no package server to install the locked environment from.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
_IN_ENVIRONMENT = ["envforge", "run", "python"]


class Step(Struct, frozen=True):
    """One command and the output that the page shows for it."""

    command: str
    expected: str

    def matches(self, output: str) -> bool:
        """Return whether the output is the expected one."""
        pattern = re.escape(self.expected.strip()).replace(r"\.\.\.", ".*")
        return re.fullmatch(pattern, output.strip(), flags=re.DOTALL) is not None


def steps_of(page: str) -> list[Step]:
    """Return the steps of all ``console`` blocks of a page, in order."""
    steps = []
    for block in re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            steps.append(Step(command, expected))
    return steps


def run_steps(steps: list[Step], directory: Path) -> None:
    """Run the steps one after the other; fail at the first whose output differs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "ENVFORGE_"))}
    environment = kept | {"NO_COLOR": "1", "COLUMNS": "80"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for step in steps:
        words = shlex.split(step.command)
        if words[0] == "cd":
            directory /= words[1]
            continue
        run = subprocess.run(
            _command(words),
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert step.matches(run.stdout), f"$ {step.command}\n{run.stdout}\n--- expected ---\n{step.expected}"


def _command(words: list[str]) -> list[str]:
    if words[:3] == _IN_ENVIRONMENT:
        return [sys.executable, *words[3:]]
    assert words[0] == "envforge"
    return [sys.executable, "-m", "envforge", *words[1:]]
