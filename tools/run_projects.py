"""Run the tests of every template's project with several interpreters, to find out on which torch the code works.

    python -m tools.run_projects --python old/bin/python --python new/bin/python [TEMPLATE …] [-- ARGUMENTS OF PYTEST]

Each interpreter must have torch, pytest, and the packages of the templates. The result is a table with a row for each
interpreter and template, the reasons of skips, and the end of pytest's output if a test failed (exit code 1).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from junitparser import JUnitXml
from msgspec import Struct

from envforge.base.data_files import templates_root
from envforge.lock.environment_spec import render_texts
from envforge.machine.record import load_machine
from envforge.project.plan import Project, place, plan_project
from envforge.project.templates import list_templates, load_template
from envforge.pytorch.matrix import Request, load_matrix
from envforge.pytorch.select import select_platforms

NAME = "trial"
LAST_LINES = 60


class Run(Struct, frozen=True, kw_only=True):
    """The test results of one project with one interpreter; ``said`` is pytest's output."""

    exit_code: int
    passed: int
    failed: int
    skipped: tuple[str, ...]  # the reason of each
    seconds: float
    said: str


def render(template: str, folder: Path) -> None:
    """Write the project of a template, with its defaults and for a CPU build of torch."""
    selection = select_platforms(load_machine("cpu", {}), Request(), (), load_matrix())[0]
    loaded = load_template(templates_root(), template)
    groups = loaded.default_groups({})
    texts = render_texts((selection,), loaded.needs_with(groups), loaded.common_root.parent)
    project = Project(
        template=loaded, name=NAME, package=NAME, answers=(), selections=(selection,), texts=texts, groups=groups
    )
    place(plan_project(project, None), folder, force=False, written_before={})


def versions(python: str) -> str:
    """Return the versions of torch and Python of an interpreter, in one line."""
    code = "import platform, torch; print('torch', torch.__version__, 'Python', platform.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run_tests(python: str, folder: Path, arguments: Sequence[str]) -> Run:
    """Run the tests of the project in ``folder``. Its ``pyproject.toml`` makes warnings errors."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    cases = [case for suite in JUnitXml.fromfile(str(report)) for case in suite] if report.exists() else []
    skipped = [case for case in cases if case.is_skipped]
    return Run(
        exit_code=done.returncode,
        passed=sum(case.is_passed for case in cases),
        failed=sum(case.is_failure or case.is_error for case in cases),
        skipped=tuple(f"{case.classname.split('.')[-1]}: {case.result[0].message}" for case in skipped),
        seconds=time.monotonic() - started,
        said=done.stdout,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all tests and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    end = words.index("--") if "--" in words else len(words)
    known = list_templates(templates_root())
    parser = argparse.ArgumentParser(prog="python -m tools.run_projects", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--python", action="append", required=True, help="Test with this interpreter. May be provided more than once."
    )
    parser.add_argument("template", nargs="*", help=f"Test only these templates: {', '.join(known)}.")
    options = parser.parse_args(words[:end])
    if unknown := sorted(set(options.template) - set(known)):
        parser.error(f"unknown template `{unknown[0]}`; expected one of: {', '.join(known)}")
    reasons: Counter[str] = Counter()
    code = 0
    print(f"{'':<38} {'template':<21} passed failed skipped seconds", flush=True)
    for python in options.python:
        told = versions(python)
        for template in options.template or known:
            with tempfile.TemporaryDirectory(prefix="envforge-projects-") as folder:
                render(template, Path(folder))
                run = run_tests(str(Path(python).absolute()), Path(folder), words[end + 1 :])
            numbers = f"{run.passed:6} {run.failed:6} {len(run.skipped):7} {run.seconds:7.0f}"
            print(f"{told:<38} {template:<21} {numbers}", flush=True)
            reasons.update(f"{told.split(' Python')[0]}: {reason}" for reason in run.skipped)
            if run.exit_code != 0:
                code = 1
                print(*run.said.splitlines()[-LAST_LINES:], f"pytest exited with {run.exit_code}", sep="\n", flush=True)
    for reason, count in sorted(reasons.items()):
        print(f"skipped {count} x {reason}")
    return code


if __name__ == "__main__":
    sys.exit(main())
