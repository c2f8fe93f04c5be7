"""Try a template: render its variants, check them, and run their smoke tests.

Strings and numbers keep their default.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from envforge.base import toml
from envforge.base.staging import PlannedFile
from envforge.errors import EnvforgeError
from envforge.lock.environment_spec import render_texts
from envforge.project.plan import Project, place, plan_project
from envforge.project.questions import Answer, TemplateQuestion, When, answers_of, shown
from envforge.project.smoke import can_skip_gpu, interpreter_torch, smoke_environment
from envforge.project.templates import Template
from envforge.pytorch.matrix import Selection

_Pair: TypeAlias = frozenset[tuple[str, Answer]]
_GROUP = "with "  # no question has a space in its name


class Variant(Struct, frozen=True, kw_only=True):
    """One combination: all answers, and the selected groups."""

    answers: tuple[tuple[str, Answer], ...]
    groups: tuple[str, ...]

    def words(self, template: Template) -> str:
        """Return the options that select it, without those that match the defaults."""
        defaults = {question.name: question.default for question in template.questions}
        options = [f"--var {name}={shown(answer)}" for name, answer in self.answers if answer != defaults[name]]
        on, default = set(self.groups), set(template.default_groups(dict(self.answers)))
        order = [group.name for group in template.groups]
        for option, names in (("--with", on - default), ("--without", default - on)):
            options += [f"{option} {','.join(sorted(names, key=order.index))}"] if names else []
        return " ".join(options) or "(defaults)"


class _Factor(Struct, frozen=True, kw_only=True):
    """One choice; values other than the first require that ``when`` holds."""

    name: str
    values: tuple[Answer, ...]
    when: When


def pairwise(template: Template) -> tuple[Variant, ...]:
    """Return the variant of all defaults first, then variants that cover the remaining pairs."""
    choices = _choices(template)
    rows = [{choice.name: choice.values[0] for choice in choices}]
    default = {*template.default_groups({question.name: question.default for question in template.questions})}
    rows[0] |= {_GROUP + group.name: group.name in default for group in template.groups}
    left = {pair for pair in _all_pairs(choices) if _complete(pair, choices, set()) is not None} - _pairs(rows[0])
    while left:
        first = min(left, key=lambda pair: sorted((name, shown(value)) for name, value in pair))
        row = _complete(first, choices, left)
        if row is not None:
            rows.append(row)
            left -= _pairs(row)
        left.discard(first)
    return tuple(_variant(template, row) for row in rows)


def _variant(template: Template, row: Mapping[str, Answer]) -> Variant:
    return Variant(
        answers=tuple((q.name, row.get(q.name, q.default)) for q in template.questions),
        groups=tuple(group.name for group in template.groups if row[_GROUP + group.name]),
    )


def _choices(template: Template) -> tuple[_Factor, ...]:
    asked = [
        _Factor(name=question.name, values=_values(question), when=question.when) for question in template.questions
    ]
    groups = [_Factor(name=_GROUP + group.name, values=(False, True), when=group.when) for group in template.groups]
    return (*asked, *groups)


def _values(question: TemplateQuestion) -> tuple[Answer, ...]:
    others: tuple[Answer, ...] = question.choices if question.type == "choice" else ()
    if question.type == "bool":
        others = (False, True)
    return (question.default, *(value for value in others if value != question.default))


def _all_pairs(choices: tuple[_Factor, ...]) -> Iterator[_Pair]:
    if len(choices) == 1:
        yield from (frozenset({(choices[0].name, value)}) for value in choices[0].values)
    for one, other in combinations(choices, 2):
        yield from (frozenset({(one.name, a), (other.name, b)}) for a in one.values for b in other.values)


def _pairs(row: Mapping[str, Answer]) -> set[_Pair]:
    singles = {frozenset({item}) for item in row.items()}
    return singles | {frozenset(two) for two in combinations(row.items(), 2)}


def _complete(fixed: _Pair, choices: tuple[_Factor, ...], wanted: set[_Pair]) -> dict[str, Answer] | None:
    """Return a row with the fixed values that covers many of the ``wanted`` pairs; ``None`` if none is possible."""
    row = dict(fixed)
    by_name = {choice.name: choice for choice in choices}
    open_names = list(row)
    while open_names:
        choice = by_name[open_names.pop()]
        for name, value in choice.when.items() if row[choice.name] != choice.values[0] else ():
            if name not in row:
                row[name] = answers_of(value)[0]
                open_names.append(name)
            elif row[name] not in answers_of(value):
                return None
    for choice in choices:
        if choice.name not in row:
            row[choice.name] = _best(choice, row, wanted)
    return {choice.name: row[choice.name] for choice in choices}


def _best(choice: _Factor, row: Mapping[str, Answer], wanted: set[_Pair]) -> Answer:
    """Return the possible value that covers most of the ``wanted`` pairs in the row so far."""
    holds = all(row.get(name) in answers_of(value) for name, value in choice.when.items())
    possible = choice.values if holds else choice.values[:1]
    return max(possible, key=lambda value: len(_pairs({**row, choice.name: value}) & wanted))


NAME = "trial"
_SMOKE_LIMIT_S = 900
_LAST_LINES = 12


class Trial(Struct, frozen=True, kw_only=True):
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
            # written as `new` does, so that modes and paths are tried, too
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
        ".py": lambda content: compile(content, NAME, "exec", dont_inherit=True),
        ".json": json.loads,
        ".ipynb": json.loads,
        ".toml": lambda content: toml.loads(content.decode()),
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


def _yaml(content: bytes) -> object:
    import yaml  # noqa: PLC0415 - slow to import, and not every template has such files

    try:
        return list(yaml.compose_all(content.decode(), Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
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
    # most variants differ only in other files, and a smoke test takes minutes
    if code in tried:
        return "same", []
    if not wanted:
        return "skipped", []
    tried.add(code)
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{NAME}.smoke", *_gpu_options(files)],
            cwd=folder,
            env=smoke_environment(),
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
