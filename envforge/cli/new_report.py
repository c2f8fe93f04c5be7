"""What ``envforge new`` says at its end: for people on the terminal, and as JSON."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

from envforge.cli.prefix_options import DEFAULT_PREFIX
from envforge.project import Project
from envforge.project.locking import ProjectLock, neighbours
from envforge.project.place import Placement
from envforge.project.staging import PlannedFile
from envforge.report import Json, success
from envforge.select import selection_to_json
from envforge.spec import ENVIRONMENT_FILE, LOCK_FILE

_LABEL = 12
_WIDEST = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Everything that ``new`` did or, with ``dry_run``, would do. ``target`` is shown as the user gave it."""

    project: Project
    target: Path
    files: tuple[PlannedFile, ...]
    placement: Placement
    lock: ProjectLock
    dry_run: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, each once."""
        found = [warning for selection in self.project.selections for warning in selection.warnings]
        return tuple(dict.fromkeys([*found, *self.lock.warnings, *self._stale_lock()]))

    def _stale_lock(self) -> tuple[str, ...]:
        changed = PurePosixPath(ENVIRONMENT_FILE) in self.placement.replaced
        if self.lock.text is not None or not changed or not (self.target / LOCK_FILE).exists():
            return ()
        return (f"{LOCK_FILE} in {self.target} is still that of the former environment",)


def next_commands(outcome: Outcome) -> tuple[str, ...]:
    """The three commands that come next, ready to be pasted."""
    enter = f"cd {shlex.quote(str(outcome.target))}"
    if outcome.lock.text is None:
        return (enter, "envforge lock", "envforge install")
    python = DEFAULT_PREFIX / "python.exe" if os.name == "nt" else DEFAULT_PREFIX / "bin" / "python"
    return (enter, "envforge install", f"{python} -m {outcome.project.package}.smoke")


def say(outcome: Outcome) -> None:
    """Print the result to stdout, warnings to stderr."""
    project, files = outcome.project, outcome.files
    size = sum(len(file.content) for file in files) / 1024
    verb = "Would write" if outcome.dry_run else "Wrote"
    template = f"{project.template.name} {project.template.version}"
    click.echo(f"{verb} {project.name} into {outcome.target}: {len(files)} files, {size:.0f} KiB, from {template}\n")
    for selection in project.selections:
        pins = [f"{name} {pin}" for name, pin in selection.build.pins if name in project.template.needs.torch_family]
        _fact(selection.build.platform, ", ".join([*pins, f"Python {selection.python}"]))
        _fact("why", selection.reason)
        _fact("grade", selection.grade.value)
    if project.chosen:
        _fact("groups", _group_words(project))
    _fact("lock", _lock_words(outcome.lock))
    if outcome.lock.requirements:
        _fact("needs", outcome.lock.requirements)
    if outcome.lock.origin == "to-solve":
        for options in neighbours(project.template.name, project.selections):
            _fact("", f"without a solve: {options}")
    _say_files(outcome)
    sys.stdout.flush()
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not outcome.dry_run:
        click.echo("\nNext:")
        for command in next_commands(outcome):
            click.echo(f"  {command}")


def _fact(label: str, text: str) -> None:
    indent = " " * (_LABEL + 2)
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = textwrap.wrap(text, max(width - len(indent), 40), break_long_words=False, break_on_hyphens=False)
    click.echo(f"  {label:<{_LABEL}}" + f"\n{indent}".join(lines))


def _lock_words(lock: ProjectLock) -> str:
    if lock.publisher:
        return f"from your team's catalogue: {lock.entry}, published {lock.date} by {lock.publisher}"
    if lock.origin == "catalogue":
        return f"from the catalogue: {lock.entry}, with the packages of {lock.date}; --fresh solves anew"
    words = {
        "solved": "solved now",
        "to-solve": f"{LOCK_FILE} would be solved now: the catalogue has none of exactly this environment",
        "none": "none, as asked; make it with: envforge lock",
    }
    return words[lock.origin]


def _group_words(project: Project) -> str:
    left_out = [name for name, taken in project.chosen if not taken]
    taken = f"with {', '.join(project.groups)}" if project.groups else "none"
    return f"{taken}; left out: {', '.join(left_out)}" if left_out else taken


def _say_files(outcome: Outcome) -> None:
    placement = outcome.placement
    if outcome.dry_run:
        click.echo("")
        for file in outcome.files:
            click.echo(f"  {len(file.content):>9,}  {_action(file, placement):<9}  {file.path}")
    elif placement.replaced:
        _fact("replaced", ", ".join(str(path) for path in placement.replaced))
    for path, kept in placement.kept:
        _fact("kept", f"{path} had other content than envforge gave it; that {_will(outcome)} now {kept}")


def _will(outcome: Outcome) -> str:
    return "would be" if outcome.dry_run else "is"


def _action(file: PlannedFile, placement: Placement) -> str:
    if file.path in placement.replaced:
        return "replace"
    return "unchanged" if file.path in placement.unchanged else "create"


def as_json(outcome: Outcome) -> str:
    """The envelope of ``new --json``."""
    project = outcome.project
    selections: list[Json] = [dict(selection_to_json(selection, candidates=False)) for selection in project.selections]
    files: list[Json] = [
        {"path": str(f.path), "bytes": len(f.content), "action": _action(f, outcome.placement)} for f in outcome.files
    ]
    result: Json = {
        "dry_run": outcome.dry_run,
        "directory": str(outcome.target.absolute()),
        "project": project.name,
        "package": project.package,
        "template": {"name": project.template.name, "version": project.template.version},
        "answers": dict(project.answers),
        "groups": dict(project.chosen),
        "selections": selections,
        "lock": {
            "origin": outcome.lock.origin,
            "entry": outcome.lock.entry or None,
            "date": outcome.lock.date.isoformat() if outcome.lock.date else None,
            "input_sha256": project.texts.sha256,
        },
        "files": files,
        "kept": [{"path": str(path), "kept_as": str(kept)} for path, kept in outcome.placement.kept],
        "warnings": list(outcome.warnings),
        "next": list(next_commands(outcome)),
    }
    return success("new", result)
