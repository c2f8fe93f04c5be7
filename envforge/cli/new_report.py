"""Print the result of `envforge new`, and obtain its lockfile."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from envforge.base.envelope import Json, success
from envforge.base.staging import PlannedFile
from envforge.cli.options import DEFAULT_PREFIX, hints_inside, repeated_command
from envforge.cli.progress import show_progress
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.environment_spec import ENVIRONMENT_FILE, LOCK_FILE
from envforge.project.locking import ProjectLock, find_lock, locked_projects, obtain_lock, unreachable_host
from envforge.project.place import Placement
from envforge.project.plan import Project
from envforge.pytorch.selection import selection_to_json

if TYPE_CHECKING:
    from envforge.cli.new import NewRequest
    from envforge.project.locking import BuildQuery
    from envforge.pytorch.selection import Selection

_PYTHON = DEFAULT_PREFIX / "python.exe" if os.name == "nt" else DEFAULT_PREFIX / "bin" / "python"
_LABEL = 12
_WIDEST = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """The environment that ``--install`` created."""

    prefix: Path
    packages: int
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Smoke:
    """The result of ``--smoke``. ``ran`` is false if nothing was run; ``gpu`` is ``passed`` or ``not-run``.

    ``reason`` says why the GPU part was not run. ``shows_commands``: the report of the test ends with the commands that
    run the GPU part in the locked environment.
    """

    ran: bool
    gpu: str
    reason: str
    shows_commands: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What ``new`` did or, with ``dry_run``, would do. ``target`` is shown as the user gave it."""

    project: Project
    target: Path
    files: tuple[PlannedFile, ...]
    placement: Placement
    lock: ProjectLock
    dry_run: bool
    notes: tuple[str, ...] = ()
    wants_install: bool = False
    wants_smoke: bool = False
    installed: Installed | None = None
    smoke: Smoke | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings to show, each once."""
        found = [warning for selection in self.project.selections for warning in selection.warnings]
        return tuple(dict.fromkeys([*found, *self.lock.warnings, *self._stale_lock()]))

    @property
    def python(self) -> Path:
        """The Python of the project's environment, relative to the working directory."""
        return (self.target / _PYTHON).absolute()

    def has_module(self, name: str) -> bool:
        """Return whether the project's package has a module of that name."""
        return PurePosixPath(self.project.package, f"{name}.py") in {file.path for file in self.files}

    def _stale_lock(self) -> tuple[str, ...]:
        changed = PurePosixPath(ENVIRONMENT_FILE) in self.placement.replaced
        if self.lock.text is not None or not changed or not (self.target / LOCK_FILE).exists():
            return ()
        return (f"{LOCK_FILE} in {self.target} still belongs to the previous environment",)


def next_commands(outcome: Outcome) -> tuple[str, ...]:
    """Return the commands that come next, ready to be pasted."""
    commands = [f"cd {shlex.quote(str(outcome.target))}"]
    if outcome.lock.text is None:
        return (*commands, "envforge lock", "envforge install")
    if outcome.installed is None:
        commands.append("envforge install")
    tested = outcome.smoke is not None and outcome.smoke.ran and outcome.installed is not None
    module = next((name for name in ("smoke", "train")[tested:] if outcome.has_module(name)), None)
    if module is not None:
        commands.append(f"{_PYTHON} -m {outcome.project.package}.{module}")
    return tuple(commands)


def print_new(outcome: Outcome) -> None:
    """Print the result to stdout, warnings to stderr."""
    project, files = outcome.project, outcome.files
    size = sum(len(file.content) for file in files) / 1024
    verb = "Would create" if outcome.dry_run else "Created"
    template = f"{project.template.name} {project.template.version}"
    click.echo(f"{verb} {project.name} in {outcome.target}: {len(files)} files, {size:.0f} KiB, from {template}\n")
    for selection in project.selections:
        pins = [f"{name} {pin}" for name, pin in selection.build.pins if name in project.template.needs.torch_family]
        _fact(selection.build.platform, ", ".join([*pins, f"Python {selection.python}"]))
        _fact("why", selection.reason)
        _fact("grade", selection.grade.value)
    if project.chosen:
        _fact("groups", _group_text(project))
    _fact("lockfile", _lock_text(outcome.lock))
    if outcome.lock.requirements:
        _fact("requires", outcome.lock.requirements)
    if outcome.dry_run and outcome.wants_install:
        _fact("install", f"would install the lockfile into {outcome.target / DEFAULT_PREFIX}")
    if outcome.dry_run and outcome.wants_smoke:
        where = f"with {outcome.target / _PYTHON}" if outcome.wants_install else "with this Python"
        _fact("smoke test", f"would run {where}")
    _say_files(outcome)
    sys.stdout.flush()
    for note in outcome.notes:
        click.echo(f"note: {note}", err=True)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)


def say_next(outcome: Outcome) -> None:
    """Print the commands that come next."""
    if outcome.dry_run or (outcome.smoke is not None and outcome.smoke.shows_commands):
        return  # the report of the smoke test ends with the same commands
    click.echo("\nNext:")
    for command in next_commands(outcome):
        click.echo(f"  {command}")


def installed_text(installed: Installed) -> str:
    """Return the line about a finished installation."""
    if installed.outcome == "unchanged":
        return f"{installed.prefix} already matches the lockfile"
    return f"{installed.outcome} {installed.packages} packages in {installed.prefix}"


def say_smoke(outcome: Outcome, smoke: Smoke) -> None:
    """Print why nothing was run, and the commands that run it; the smoke module itself reports a skipped GPU part."""
    if smoke.ran:
        return
    click.echo(f"not run, because {smoke.reason}")
    if smoke.shows_commands:
        make = "envforge install" if outcome.lock.text is not None else "envforge lock && envforge install"
        click.echo("To run it in the locked environment:")
        click.echo(f"  cd {shlex.quote(str(outcome.target))} && {make}")
        click.echo(f"  {_PYTHON} -m {outcome.project.package}.smoke")


def _fact(label: str, text: str) -> None:
    indent = " " * (_LABEL + 2)
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = textwrap.wrap(text, max(width - len(indent), 40), break_long_words=False, break_on_hyphens=False)
    click.echo(f"  {label:<{_LABEL}}" + f"\n{indent}".join(lines))


def _lock_text(lock: ProjectLock) -> str:
    if lock.publisher:
        return f"from your team's catalogue: {lock.entry}, published {lock.date} by {lock.publisher}"
    if lock.origin == "catalogue":
        return f"from the catalogue: {lock.entry}, with the packages of {lock.date}; --fresh solves again"
    return {
        "solved": "solved now",
        "to-solve": f"{LOCK_FILE} would be solved now: the catalogue has none of exactly this environment",
        "none": "none, because --no-lock was provided; to create it, run envforge lock",
    }[lock.origin]


def _group_text(project: Project) -> str:
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
        _fact("kept", f"your {path}, {'as' if outcome.dry_run else 'now'} {kept}")


def _action(file: PlannedFile, placement: Placement) -> str:
    if file.path in placement.replaced:
        return "replace"
    return "unchanged" if file.path in placement.unchanged else "create"


def as_json(outcome: Outcome) -> str:
    """Return the envelope of ``new --json``."""
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
        "notes": list(outcome.notes),
        "warnings": list(outcome.warnings),
        "install": _install_json(outcome),
        "smoke": _smoke_json(outcome),
        "next": list(next_commands(outcome)),
    }
    return success("new", result)


def _install_json(outcome: Outcome) -> Json:
    installed = outcome.installed
    if installed is None:
        return None
    return {"prefix": str(installed.prefix), "packages": installed.packages, "outcome": installed.outcome}


def _smoke_json(outcome: Outcome) -> Json:
    smoke = outcome.smoke
    return None if smoke is None else {"ran": smoke.ran, "gpu": smoke.gpu, "reason": smoke.reason or None}


_MOST_OFFERED = 2


def locked(request: NewRequest, project: Project, query: BuildQuery) -> tuple[Project, ProjectLock, tuple[str, ...]]:
    """Return the project with its lock; without a network, on the best build whose lockfile is in the catalogue."""
    way = request.lock.way(Path(), dry_run=request.dry_run)
    with show_progress() as show:
        found = find_lock(project.texts, way, show) if way.wanted else None
        if found is not None:
            return project, found, ()
        if way.wanted and not way.fresh and way.conda_exe is None:
            host = unreachable_host(project, way.mirrors)
            if host is not None:
                other = next(locked_projects(project, query), None)
                if other is None:
                    raise _needs_network(request, project, query, host)
                lock = obtain_lock(other.texts, way, show)
                return other, lock, (_note_instead(request, project, other, host),)
        try:
            return project, obtain_lock(project.texts, way, show), ()
        except EnvforgeError as error:
            # the project isn't written, so hints of the lock apply once it was created without a lockfile
            target = Path(request.directory or project.template.name)
            inside = hints_inside(target, error.hints, "then, in the project, ")
            error.hints = (*_ways_without_solve(request, project, query), *inside)
            raise


def _build_of(selection: Selection) -> str:
    build = selection.build
    return f"torch {build.pin(build.torch)} with Python {selection.python} on {build.platform}"


def _torch_of(project: Project) -> str:
    build = project.selections[0].build
    return f"torch {build.pin(build.torch)}"


def _note_instead(request: NewRequest, wanted: Project, other: Project, host: str) -> str:
    """Return the line that names the build that was not selected, and how to switch to it."""
    build = wanted.selections[0].build
    directory = shlex.quote(request.directory or wanted.template.name)
    switch = f"envforge update --directory {directory} --cuda {build.tag.cuda or 'cpu'} --torch {build.torch}"
    return (
        f"{host} can't be reached, so the project uses {_torch_of(other)}, whose lockfile is in the catalogue, instead "
        f"of {_torch_of(wanted)}; to switch when you are online, run `{switch}`"
    )


def _needs_network(request: NewRequest, project: Project, query: BuildQuery, host: str) -> EnvforgeError:
    builds = [_build_of(selection) for selection in project.selections]
    needs = builds[0] if len(builds) == 1 else f"the combination of {' and '.join(builds)}"
    packages = [spec for group in project.template.groups if group.name in project.groups for spec in group.conda]
    needs += f" and {', '.join(packages)}" if packages else ""
    return OutsideError(
        f"the catalogue has no lockfile for {needs}, and `{host}`, which a solve requires, can't be reached",
        hint=_ways_without_solve(request, project, query),
        code="no-network",
    )


def _ways_without_solve(request: NewRequest, project: Project, query: BuildQuery) -> tuple[Hint, ...]:
    """Return the ways to a lockfile of the catalogue, as commands; then ``--no-lock``."""
    without = repeated_command({"no_lock": True, "fresh": None, "install": None})
    return (
        *ways_in_catalogue(project, query, python=request.selection.python is not None),
        *_ways_for_one_platform(project, query),
        Hint("to create the project without a lockfile", without),
    )


def ways_in_catalogue(project: Project, query: BuildQuery, *, python: bool) -> tuple[Hint, ...]:
    """Return the builds that fit the machine and have a lockfile in the catalogue, as variations of the command line.

    ``python``: the command line has ``--python``.
    """
    ways = []
    relaxed = (query.without("torch", "python"), query.without("cuda", "torch", "python"))
    others = {each.texts.sha256: each for wider in relaxed for each in locked_projects(project, wider)}
    for other in [*others.values()][:_MOST_OFFERED]:
        selection = other.selections[0]
        command = repeated_command(
            {
                "cuda": str(selection.build.tag.cuda or "cpu"),
                "torch": str(selection.build.torch),
                "python": str(selection.python) if python else None,
                "fresh": None,
            }
        )
        ways.append(Hint(f"to use {_torch_of(other)}, whose lockfile is in the catalogue", command))
    return tuple(ways)


def _ways_for_one_platform(project: Project, query: BuildQuery) -> Iterator[Hint]:
    """Yield the platforms whose lockfile is in the catalogue, if the catalogue lacks their combination."""
    for platform in query.platforms if len(query.platforms) > 1 else ():
        if next(locked_projects(project, replace(query, platforms=(platform,))), None) is not None:
            command = repeated_command({"platforms": platform, "fresh": None})
            yield Hint(f"to create it only for {platform}, whose lockfile is in the catalogue", command)
