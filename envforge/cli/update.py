"""``envforge update``: options in, one update planned, applied whole or not at all, and told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from envforge.cli.options import Decorator, chosen_machine, chosen_mirrors, json_option, machine_option, mirror_option
from envforge.cli.selection_options import SelectionOptions, selection_options
from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from envforge.machine import Machine
    from envforge.project.record import ProjectRecord
    from envforge.project.update import Update, Wishes
    from envforge.selection import Request

_HELP = {
    "directory": "The folder of the project.",
    "template_version": "Another version of the template: for git a branch, tag or commit.",
    "var": "Answer one question of the template otherwise; may be given several times.",
    "with_groups": "Add these groups of files, or `all`.",
    "without_groups": "Take these groups of files out, or `all` that are not named by --with; what you edited stays.",
    "on_conflict": "Where both sides changed the same lines: markers in the file, or yours and NAME.rej beside it.",
    "dry_run": "Show what would change as a diff, and change nothing.",
    "check": "Change nothing; exit 1 where the template has something newer.",
    "no_lock": "Leave the lock to `envforge lock`.",
    "fresh": "Solve a changed environment now, also where the catalogue has its lock.",
    "conda_exe": "Solve with this conda, mamba or micromamba in place of the embedded solver.",
    "catalogue": "The catalogue of your team, asked before the one that comes with envforge.",
}
_SELECTION = ("cuda", "torch", "python", "platforms", "prefer", "torch_index")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateOptions:
    """The command line of ``envforge update``; ``typed`` names the options of the selection that were typed."""

    machine: str | None
    selection: SelectionOptions
    typed: frozenset[str]
    directory: Path
    template_version: str | None
    var: tuple[str, ...]
    with_groups: tuple[str, ...]
    without_groups: tuple[str, ...]
    on_conflict: str
    dry_run: bool
    check: bool
    no_lock: bool
    fresh: bool
    conda_exe: Path | None
    catalogue: str | None
    mirrors: tuple[str, ...]
    as_json: bool


def _own_options(function: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path, file_okay=False)
    options: list[Decorator] = [
        click.option("--directory", type=folder, default=".", show_default=True, help=_HELP["directory"]),
        click.option("--template-version", metavar="VERSION", help=_HELP["template_version"]),
        click.option("--var", multiple=True, metavar="KEY=VALUE", help=_HELP["var"]),
        click.option("--with", "with_groups", multiple=True, metavar="NAME,…", help=_HELP["with_groups"]),
        click.option("--without", "without_groups", multiple=True, metavar="NAME,…", help=_HELP["without_groups"]),
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
        click.option("--no-lock", is_flag=True, help=_HELP["no_lock"]),
        click.option("--fresh", is_flag=True, help=_HELP["fresh"]),
        click.option("--conda-exe", type=click.Path(path_type=Path), help=_HELP["conda_exe"]),
        click.option(
            "--catalogue", metavar="ADDRESS", envvar="ENVFORGE_CATALOGUE", show_envvar=True, help=_HELP["catalogue"]
        ),
        mirror_option(),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@selection_options()
@machine_option()
@_own_options
@json_option()
def update(selection_options: SelectionOptions, **options: Any) -> None:
    """Bring a project up to its template, with your edits kept.

    The template is rendered anew with the recorded answers, and its changes are merged into your files. --cuda,
    --torch and the like choose another build: environment.yml and the lock are made anew with it. Nothing of yours is
    lost: where both sides changed the same lines both stand in the file between markers. Everything changes or nothing.

    Exit 0 where all is merged, 1 where conflicts are left or --check finds something newer.
    """
    context = click.get_current_context()
    typed = {name for name in _SELECTION if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    request = UpdateOptions(selection=selection_options, typed=frozenset(typed), **options)
    if _run(request):
        raise click.exceptions.Exit(1)


def _run(request: UpdateOptions) -> bool:
    """Do it; says whether something is left for the user."""
    from envforge.cli import update_report
    from envforge.cli.unfinished import refuse_half_change, tell_environment
    from envforge.project.opened import open_template
    from envforge.project.record import need_project_file
    from envforge.project.staging import settle_interrupted
    from envforge.project.update import apply, plan_update
    from envforge.spec import LOCK_FILE

    folder = request.directory
    refuse_half_change(folder / LOCK_FILE)
    tell_environment()
    if not (request.dry_run or request.check) and settle_interrupted(folder):
        click.echo(f"note: an interrupted run in {folder} was put right first", err=True)
    record = need_project_file(folder)
    name = record.origin.source or record.template
    with open_template(name, folder, version=request.template_version) as opened:
        planned = plan_update(folder, record, opened, _wishes(request, record))
    if request.check:
        update_report.say_check(planned, as_json=request.as_json)
        return planned.is_newer
    lock = None if request.dry_run else _lock(request, planned)
    written = not request.dry_run and apply(planned, lock)
    update_report.say(
        planned,
        lock,
        update_report.Told(written=written, dry_run=request.dry_run, no_lock=request.no_lock, as_json=request.as_json),
    )
    return any(change.conflicts for change in planned.changes)


def _wishes(request: UpdateOptions, record: ProjectRecord) -> Wishes:
    from envforge.machine.record import machine_to_json
    from envforge.machine.redact import redact
    from envforge.matrix import load_matrix
    from envforge.project.update import Wishes
    from envforge.select import select_platforms

    wishes = Wishes(
        variables=request.var,
        with_groups=request.with_groups,
        without_groups=request.without_groups,
        on_conflict="rej" if request.on_conflict == "rej" else "inline",
    )
    if not request.typed and request.machine is None:
        return wishes
    machine, matrix = _machine(request, record), load_matrix()
    recorded = tuple(selection.build.platform for selection in record.selections)
    platforms = request.selection.known_platforms(matrix) if "platforms" in request.typed else recorded
    typed = request.selection.to_request(matrix)
    chosen = {name: getattr(typed, name) for name in request.typed - {"platforms"}}
    former: Request = replace(record.selections[0].request, platform=None)
    selections = select_platforms(machine, replace(former, **chosen), platforms, matrix)
    return replace(wishes, selections=selections, machine=machine_to_json(redact(machine)))


def _machine(request: UpdateOptions, record: ProjectRecord) -> Machine:
    """The machine that is named, else the one that the project was made for, else this one."""
    from envforge.machine.record import machine_from_json
    from envforge.project.record import NAME

    if request.machine is not None or record.machine is None:
        return chosen_machine(request.machine)
    return machine_from_json(record.machine, f"{request.directory / NAME}, machine")


def _lock(request: UpdateOptions, planned: Update) -> str | None:
    """The text of the new lock; ``None`` where the lock stays."""
    texts = planned.lock_texts
    if texts is None or request.no_lock:
        return None
    from envforge.cli.lock_progress import show_progress
    from envforge.project.locking import LockWay, obtain_lock
    from envforge.sharing.settings import chosen_catalogue

    way = LockWay(
        fresh=request.fresh,
        conda_exe=request.conda_exe,
        mirrors=chosen_mirrors(request.mirrors),
        team=chosen_catalogue(request.catalogue, request.directory, os.environ),
    )
    try:
        with show_progress() as show:
            made = obtain_lock(texts, way, show)
    except EnvforgeError as error:
        error.hint = "\n      ".join(hint for hint in ("the update without the lock: --no-lock", error.hint) if hint)
        raise
    for warning in made.warnings:
        click.echo(f"warning: {warning}", err=True)
    return made.text
