"""``envforge update``: plan one update, and apply it in one transaction."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from envforge.cli.options import Decorator, chosen_machine, hints_inside, json_option, machine_option, repeated_command
from envforge.cli.project_options import (
    LockOptions,
    TemplateOptions,
    lock_options,
    requirement_option,
    template_options,
)
from envforge.cli.selection_options import SelectionOptions, selection_options
from envforge.errors import EnvforgeError, Hint

if TYPE_CHECKING:
    from envforge.machine import Machine
    from envforge.project.offline import BuildQuery
    from envforge.project.record import ProjectRecord
    from envforge.project.update import Locks, Update, Wishes
    from envforge.selection import Request

_HELP = {
    "directory": "Directory of the project.  [default: the nearest with an envforge.toml, from here upward]",
    "template_version": "Update to this version of the template; for git, a branch, tag, or commit.",
    "on_conflict": "If both sides changed the same lines, write markers, or keep yours and write NAME.rej.",
    "dry_run": "Show the changes as a diff, without writing anything.",
    "check": "Check for a newer template, without writing anything. Exits with 1 if there is one.",
}
_SELECTION = ("cuda", "torch", "python", "platforms", "prefer", "torch_index")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateOptions:
    """The command line of ``envforge update``; ``typed`` names the options of the selection that were typed."""

    machine: str | None
    selection: SelectionOptions
    typed: frozenset[str]
    wishes: TemplateOptions
    lock: LockOptions
    envforge: str | None
    directory: Path | None
    template_version: str | None
    on_conflict: str
    dry_run: bool
    check: bool
    as_json: bool


def _own_options(function: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path, file_okay=False)
    options: list[Decorator] = [
        click.option("--directory", type=folder, metavar="DIR", help=_HELP["directory"]),
        click.option("--template-version", metavar="VERSION", help=_HELP["template_version"]),
        click.option(
            "--conflict",
            "on_conflict",
            type=click.Choice(["inline", "rej"]),
            default="inline",
            show_default=True,
            help=_HELP["on_conflict"],
        ),
        click.option("--dry-run", is_flag=True, help=_HELP["dry_run"]),
        click.option("--check", is_flag=True, help=_HELP["check"]),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@selection_options()
@machine_option()
@template_options()
@requirement_option()
@_own_options
@lock_options()
@json_option()
def update(
    selection_options: SelectionOptions, template_options: TemplateOptions, lock_options: LockOptions, **options: Any
) -> None:
    """Update a project to its template, and keep your edits.

    The template is rendered again with the recorded answers, and its changes are merged into your files. If both sides
    changed the same lines, the file contains both between markers. To switch to another build, pass --cuda, --torch, or
    --python: environment.yml and the lockfile are updated too. All files change in one transaction.

    Exits with 1 if conflicts remain, or if --check finds a newer template.
    """
    context = click.get_current_context()
    typed = {name for name in _SELECTION if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    request = UpdateOptions(
        selection=selection_options,
        typed=frozenset(typed),
        wishes=template_options,
        lock=lock_options,
        **options,
    )
    if _run(request):
        raise click.exceptions.Exit(1)


def _run(request: UpdateOptions) -> bool:
    """Run the update; return whether something remains to be done."""
    from envforge.cli import update_report
    from envforge.cli.unfinished import refuse_half_change, tell_environment
    from envforge.project.opened import open_template
    from envforge.project.record import find_project
    from envforge.project.staging import settle_interrupted
    from envforge.project.update import Locks, apply, plan_update
    from envforge.spec import LOCK_FILE

    folder = request.directory or find_project(Path.cwd()) or Path()
    for lockfile in (folder / LOCK_FILE, *folder.glob(f"lockfiles/*/{LOCK_FILE}")):
        refuse_half_change(lockfile)
    tell_environment()
    if not (request.dry_run or request.check) and settle_interrupted(folder):
        click.echo(f"note: completed or undid an interrupted run in {folder} first", err=True)
    record = _record(request, folder)
    name = record.origin.source or record.template
    with open_template(name, folder, version=request.template_version) as opened:
        wishes, query = _wishes(request, record, folder)
        planned = plan_update(folder, record, opened, wishes)
    if request.check:
        update_report.say_check(planned, as_json=request.as_json)
        return planned.is_newer
    locks = Locks() if request.dry_run else _lock(request, planned, query)
    written = not request.dry_run and apply(planned, locks)
    told = update_report.Told(
        written=written, dry_run=request.dry_run, no_lock=request.lock.no_lock, as_json=request.as_json
    )
    update_report.say(planned, locks, told)
    return bool(planned.unresolved) or any(change.conflicts for change in planned.changes)


def _record(request: UpdateOptions, folder: Path) -> ProjectRecord:
    from envforge.project.record import NAME, need_project_file, no_project

    if request.directory is None and not (folder / NAME).is_file():
        raise no_project(f"neither `{folder.absolute()}` nor a parent directory has an `{NAME}`")
    return need_project_file(folder)


def _wishes(request: UpdateOptions, record: ProjectRecord, folder: Path) -> tuple[Wishes, BuildQuery | None]:
    """Return the wishes, and what their builds are selected from, unless the builds are kept."""
    from envforge.machine.record import machine_to_json
    from envforge.machine.redact import redact
    from envforge.matrix import load_matrix
    from envforge.project.offline import BuildQuery
    from envforge.project.update import Wishes

    wishes = Wishes(
        variables=request.wishes.var,
        with_groups=request.wishes.with_groups,
        without_groups=request.wishes.without_groups,
        on_conflict="rej" if request.on_conflict == "rej" else "inline",
        envforge_requirement=_requirement(request, record, folder),
    )
    if not request.typed and request.machine is None:
        return wishes, None
    machine, matrix = _machine(request, record, folder), load_matrix()
    recorded = tuple(selection.build.platform for selection in record.selections)
    platforms = request.selection.known_platforms(matrix) if "platforms" in request.typed else recorded
    typed = request.selection.to_request(matrix)
    chosen = {name: getattr(typed, name) for name in request.typed - {"platforms"}}
    former: Request = replace(record.selections[0].request, platform=None)
    query = BuildQuery(machine=machine, request=replace(former, **chosen), platforms=platforms, matrix=matrix)
    return replace(wishes, selections=query.select(), machine=machine_to_json(redact(machine))), query


def _requirement(request: UpdateOptions, record: ProjectRecord, folder: Path) -> str:
    from envforge.distribution import stated_requirement
    from envforge.project.record import NAME

    recorded = record.envforge_requirement
    return stated_requirement(request.envforge, os.environ, (recorded, str(folder / NAME)) if recorded else None) or ""


def _machine(request: UpdateOptions, record: ProjectRecord, folder: Path) -> Machine:
    """Return the machine of ``--machine``, else the one that the project was created for, else this one."""
    from envforge.machine.record import machine_from_json
    from envforge.project.record import NAME

    if request.machine is not None or record.machine is None:
        return chosen_machine(request.machine)
    return machine_from_json(record.machine, f"{folder / NAME}, machine")


def _lock(request: UpdateOptions, planned: Update, query: BuildQuery | None) -> Locks:
    """Return the new locks of the project and its variants; none if the environment is unchanged."""
    from envforge.project.update import Locks

    texts = planned.changed_texts
    if texts is None or request.lock.no_lock:
        return Locks()
    from envforge.cli.lock_progress import show_progress
    from envforge.project.locking import obtain_lock
    from envforge.project.variant_locks import relock_variants

    way = request.lock.way(planned.folder)
    try:
        with show_progress() as show:
            own = None if planned.lock_texts is None else obtain_lock(texts, way, show)
            variants = relock_variants(planned.folder, texts, way, show)
    except EnvforgeError as error:
        error.hints = (
            *_ways_in_catalogue(request, planned, query),
            Hint("to update the project without its lockfile", repeated_command({"no_lock": True, "fresh": None})),
            *hints_inside(planned.folder, error.hints, "then, in the project, "),
        )
        raise
    warnings = [*(() if own is None else own.warnings)]
    warnings += [f"variant {variant.name}: {warning}" for variant in variants for warning in variant.warnings]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return Locks(own=None if own is None else own.text, variants=variants)


def _ways_in_catalogue(request: UpdateOptions, planned: Update, query: BuildQuery | None) -> tuple[Hint, ...]:
    """Return the builds whose lockfile is in the catalogue; it has none for an environment.yml that was edited."""
    from envforge.cli.new_lock import ways_in_catalogue
    from envforge.project.variant_locks import derived_variants

    texts = planned.changed_texts
    if (
        query is None
        or texts is None
        or texts.sha256 != planned.project.texts.sha256
        or derived_variants(planned.folder)
    ):
        return ()
    return ways_in_catalogue(planned.project, query, python=request.selection.python is not None)
