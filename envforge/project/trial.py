"""Try a template: render its variants, check the rendered files, and run their smoke tests."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from envforge import toml
from envforge.errors import EnvforgeError
from envforge.project import Project, plan_project
from envforge.project.pairs import Variant, pairwise
from envforge.project.place import place
from envforge.project.smoke import can_skip_gpu, interpreter_torch
from envforge.project.staging import PlannedFile
from envforge.project.templates import Template
from envforge.select import Selection
from envforge.spec import render_texts

NAME = "trial"
_SMOKE_LIMIT_S = 900
_LAST_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The result for one variant: the number of its files, their problems, and the state of its smoke test.

    ``smoke`` is ``passed``, ``failed``, ``same`` (as another variant of the same code), ``none`` (the template has no
    smoke test), or ``skipped``.
    """

    variant: Variant
    files: int
    problems: tuple[str, ...]
    smoke: str


def try_template(template: Template, selection: Selection, *, smoke: bool) -> Iterator[Trial]:
    """Try each variant in turn; ``smoke`` runs ``python -m PACKAGE.smoke`` once for each different code."""
    tried: set[str] = set()
    for variant in pairwise(template):
        try:
            files = plan_project(_project(template, selection, variant), None)
        except EnvforgeError as error:
            yield Trial(variant=variant, files=0, problems=(error.message,), smoke="skipped")
            continue
        problems = [problem for file in files for problem in _problems(file)]
        with tempfile.TemporaryDirectory(prefix="envforge-trial-") as name:
            folder = Path(name) / NAME
            place(files, folder, force=False, written_before={})
            problems += _ruff(folder)
            state, said = _smoke(files, folder, tried, wanted=smoke and not problems)
        yield Trial(variant=variant, files=len(files), problems=(*problems, *said), smoke=state)


def has_ruff() -> bool:
    """Return whether rendered code can be linted here."""
    return shutil.which("ruff") is not None or importlib.util.find_spec("ruff") is not None


def has_torch() -> bool:
    """Return whether smoke tests can run here."""
    return importlib.util.find_spec("torch") is not None


def _project(template: Template, selection: Selection, variant: Variant) -> Project:
    texts = render_texts((selection,), template.needs_with(variant.groups), template.common_root.parent)
    return Project(
        template=template,
        name=NAME,
        package=NAME,
        answers=variant.answers,
        selections=(selection,),
        texts=texts,
        groups=variant.groups,
    )


def _problems(file: PlannedFile) -> list[str]:
    """Parse a file by its suffix, and return the errors."""
    readers: dict[str, Callable[[bytes], object]] = {
        ".py": _compile,
        ".json": json.loads,
        ".ipynb": json.loads,
        ".toml": _toml,
        ".yml": _yaml,
        ".yaml": _yaml,
    }
    reader = readers.get(file.path.suffix)
    if reader is None or ".vscode" in file.path.parts or ".devcontainer" in file.path.parts:  # JSON with comments
        return []
    try:
        reader(file.content)
    except (ValueError, SyntaxError) as error:
        return [f"{file.path}: {' '.join(str(error).split())}"]
    return []


def _compile(content: bytes) -> object:
    return compile(content, NAME, "exec", dont_inherit=True)


def _toml(content: bytes) -> object:
    return toml.loads(content.decode())


def _yaml(content: bytes) -> object:
    import yaml  # noqa: PLC0415 - slow to import, and not every template has such files

    try:
        return list(yaml.compose_all(content.decode(), Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _ruff(folder: Path) -> list[str]:
    if not has_ruff():
        return []
    command = ["ruff"] if shutil.which("ruff") else [sys.executable, "-m", "ruff"]
    done = subprocess.run(
        [*command, "check", "--no-cache", "--quiet", "--output-format", "concise", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return [f"ruff: {line}" for line in lines] if done.returncode else []


def _smoke(files: tuple[PlannedFile, ...], folder: Path, tried: set[str], *, wanted: bool) -> tuple[str, list[str]]:
    if not (folder / NAME / "smoke.py").is_file():
        return "none", []
    code = hashlib.sha256(b"".join(f.content + b"\0" for f in files if f.path.suffix == ".py")).hexdigest()
    if code in tried:
        return "same", []
    if not wanted:
        return "skipped", []
    tried.add(code)
    # PYTHONSAFEPATH would keep the project, which is the working directory, out of sys.path
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{NAME}.smoke", *_gpu_options(files)],
            cwd=folder,
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SMOKE_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "failed", [f"the smoke test didn't finish within {_SMOKE_LIMIT_S} s"]
    if done.returncode == 0:
        return "passed", []
    said = (done.stdout + done.stderr).splitlines()[-_LAST_LINES:]
    return "failed", [f"the smoke test failed with exit code {done.returncode}", *(f"    {line}" for line in said)]


def _gpu_options(files: tuple[PlannedFile, ...]) -> tuple[str, ...]:
    """Return the options that keep a torch without CUDA from failing the template on a machine with a GPU."""
    found = interpreter_torch()
    if found is None or found.cuda is not None or not can_skip_gpu(files, NAME):
        return ()
    return ("--skip-gpu", f"this interpreter has {found}, a build without CUDA")
