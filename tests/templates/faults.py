"""Break copies of a rendered project in one place each, and run its own tests, which must fail."""

from __future__ import annotations

from msgspec import Struct

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.templates.conftest import PACKAGE

FORKS = Path(__file__).with_name("forks.py")


class Fault(Struct, frozen=True):
    """``old`` becomes ``new`` in a module of the package; ``tests`` are the ones that must notice."""

    name: str
    module: str
    old: str
    new: str
    tests: str


class Job(Struct, frozen=True):
    """Tests to run in a folder."""

    folder: Path
    tests: tuple[str, ...]


class Outcome(Struct, frozen=True):
    """How pytest ended. 0: all passed; 1: a test failed; 2 and above: nothing was tested, the fault does not load."""

    code: int
    output: str


def job(project: Path, folder: Path, fault: Fault) -> Job:
    """A copy of the project with the fault in it."""
    copy(project, folder)
    path = folder / PACKAGE / f"{fault.module}.py"
    text = path.read_text(encoding="utf-8")
    assert fault.old in text, f"{fault.name}: `{fault.old}` is no longer in {fault.module}.py"
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return Job(folder, (fault.tests,))


def copy(project: Path, folder: Path) -> Path:
    """What the tests of a project need."""
    for part in (PACKAGE, "tests"):
        shutil.copytree(project / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "pyproject.toml", folder)
    return folder


def run_jobs(jobs: Mapping[str, Job], *, at_once: int) -> dict[str, Outcome]:
    """All jobs in ``at_once`` processes, which import torch once each and fork for each job."""
    names = list(jobs)
    shares = [names[number::at_once] for number in range(at_once)]
    runners = [_start([jobs[name] for name in share]) for share in shares]
    outcomes: dict[str, Outcome] = {}
    for share, runner in zip(shares, runners, strict=True):
        codes, _ = runner.communicate(timeout=1800)
        assert runner.returncode == 0
        for name, code in zip(share, json.loads(codes), strict=True):
            outcomes[name] = Outcome(code, (jobs[name].folder / "pytest.txt").read_text(encoding="utf-8"))
    return outcomes


def _start(jobs: Sequence[Job]) -> subprocess.Popen[str]:
    runner = subprocess.Popen(
        [sys.executable, str(FORKS)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdin is not None
    runner.stdin.write(json.dumps([(str(each.folder), each.tests) for each in jobs]))
    runner.stdin.close()
    runner.stdin = None  # communicate would write to it
    return runner
