"""``envforge new``: options in, one project planned, written whole or not at all, and told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from envforge.cli import new_report
from envforge.cli.lock_progress import show_progress
from envforge.cli.options import Decorator, chosen_machine, json_option, machine_option
from envforge.cli.project_options import LockOptions, TemplateOptions, lock_options, template_options
from envforge.cli.selection_options import SelectionOptions, selection_options
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.machine.record import machine_to_json
from envforge.machine.redact import redact
from envforge.matrix import load_matrix
from envforge.project import Project, plan_project
from envforge.project.answers import gather_answers
from envforge.project.groups import choose_groups
from envforge.project.locking import ProjectLock, neighbours, obtain_lock
from envforge.project.names import check_folder_name, check_project_name, package_name
from envforge.project.opened import Opened, open_template, source_from
from envforge.project.place import abandoned, check_target, place, plan_placement
from envforge.project.questions import Answer, Question, shown
from envforge.project.record import written_files
from envforge.project.staging import settle_interrupted
from envforge.project.templates import Template, list_templates
from envforge.resources import templates_root
from envforge.select import select_platforms
from envforge.spec import TORCH_FAMILY, render_texts, split_conda_spec, torch_requirement_names

Answers = tuple[tuple[str, Answer], ...]

_HELP = {
    "name": "Name of the project; its package is the same in small letters with `_`.  [default: that of DIR]",
    "defaults": "Ask nothing: take the default of every question that --var leaves open.",
    "force": "Write into a folder that is not empty; what is yours and in the way is kept as NAME.orig.",
    "dry_run": "List every file with its size and change nothing.",
    "trust": "Run the commands that somebody else's template wants to be run; they are shown first.",
    "smoke": "Then run the project's smoke test in this interpreter; its failure is this command's failure.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRequest:
    """The command line of ``envforge new``."""

    machine: str | None
    selection: SelectionOptions
    wishes: TemplateOptions
    lock: LockOptions
    template: str | None
    directory: str | None
    name: str | None
    defaults: bool
    force: bool
    dry_run: bool
    smoke: bool
    trust: bool
    as_json: bool


def _own_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options: list[Decorator] = [
        click.option("--defaults", is_flag=True, help=_HELP["defaults"]),
        click.option("--force", is_flag=True, help=_HELP["force"]),
        click.option("--dry-run", is_flag=True, help=_HELP["dry_run"]),
        click.option("--smoke", is_flag=True, help=_HELP["smoke"]),
        click.option("--trust", is_flag=True, help=_HELP["trust"]),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("template", required=False)
@click.argument("directory", required=False, metavar="[DIR]")
@selection_options()
@machine_option()
@click.option("--name", help=_HELP["name"])
@template_options()
@_own_options
@lock_options()
@json_option()
def new(
    selection_options: SelectionOptions, template_options: TemplateOptions, lock_options: LockOptions, **options: Any
) -> None:
    """Create a project: environment, lockfile, mixed-precision training code, tests.

    TEMPLATE is one of those that come with envforge (envforge templates), a folder (./FOLDER) or a git repository
    (git+https://…@REV); DIR is a new folder, by default of the template's name. Nothing is written before everything is
    known, and the project appears whole or not at all.
    """
    request = NewRequest(selection=selection_options, wishes=template_options, lock=lock_options, **options)
    with open_template(_named(request.template), Path()) as opened:
        outcome = _create(request, opened)
    if not request.as_json:
        new_report.say(outcome)
    if not request.dry_run:
        _hooks(outcome, trust=request.trust)
    if request.smoke and not request.dry_run:
        _smoke(outcome, as_json=request.as_json)
    if request.as_json:
        click.echo(new_report.as_json(outcome))


def _create(request: NewRequest, opened: Opened) -> new_report.Outcome:
    template = opened.template
    if request.smoke and opened.is_foreign and not request.trust:
        raise RequestError(
            f"--smoke runs code of the template `{request.template}`, which is not one of envforge's",
            hint="look at it, then add --trust",
            code="template-not-trusted",
        )
    target = _target(template.name if request.directory is None else request.directory)
    name = _name(request, target)
    package = package_name(name, _name_option(request), _installed(template))
    if request.smoke and not request.dry_run:
        from envforge.project.smoke import require_torch

        require_torch()
    if not request.dry_run and settle_interrupted(target):
        click.echo(f"note: an interrupted run in {target} was put right first", err=True)
    check_target(target, force=request.force)
    answers = gather_answers(template, request.wishes.var, None if _is_quiet(request) else _ask)
    groups = choose_groups(template.groups, dict(answers), request.wishes.with_groups, request.wishes.without_groups)
    project = _project(request, opened, (name, package), (answers, groups))
    lock = _lock(request, project)
    files = plan_project(project, lock.text)
    written_before = written_files(target)
    if request.dry_run:
        placement = plan_placement(files, target, written_before)
    else:
        placement = place(files, target, force=request.force, written_before=written_before)
        _mention_abandoned(target)
    return new_report.Outcome(
        project=project, target=target, files=files, placement=placement, lock=lock, dry_run=request.dry_run
    )


def _named(name: str | None) -> str:
    if name is None:
        known = ", ".join(f"`{each}`" for each in list_templates(templates_root()))
        raise RequestError(
            f"name a template; templates: {known}", hint="envforge new TEMPLATE [DIR]", code="no-template-named"
        )
    return name


def _recorded_source(opened: Opened, request: NewRequest) -> str:
    if not opened.is_foreign:
        return ""
    return source_from(opened.origin.source, _target(request.directory or opened.template.name))


def _target(directory: str) -> Path:
    target = Path(directory)
    if not directory.strip():
        raise RequestError(f"DIR: {directory!r} names nothing", hint="choose another DIR", code="bad-target")
    for part in target.parts:
        check_folder_name(part, "DIR")
    if ".." in target.parts:
        raise RequestError(
            f"DIR: `{directory}` has the part `..`",
            hint=f"name the folder itself: {target.resolve()}",
            code="bad-target",
        )
    return target


def _name_option(request: NewRequest) -> str:
    return "--name" if request.name is not None else "DIR"


def _name(request: NewRequest, target: Path) -> str:
    name = request.name if request.name is not None else target.absolute().name
    return check_project_name(name, _name_option(request))


def _installed(template: Template) -> tuple[str, ...]:
    """Names that the environment's packages are imported by; those with another name are known to ``names``."""
    needs = template.needs_with([group.name for group in template.groups])
    return (*TORCH_FAMILY, *torch_requirement_names(), *(split_conda_spec(spec)[0] for spec in needs.conda))


def _is_quiet(request: NewRequest) -> bool:
    return request.defaults or request.as_json or not (sys.stdin.isatty() and sys.stderr.isatty())


def _ask(question: Question) -> Answer:
    def parse(text: str) -> Answer:
        try:
            return question.parse(text)
        except ValueError as rule:
            raise click.UsageError(f"{text!r} is no answer; wanted {rule}") from rule

    words = f"{question.help} ({'/'.join(question.choices)})" if question.choices else question.help
    answer: Answer = click.prompt(words, default=shown(question.default), value_proc=parse, err=True)
    return answer


def _project(
    request: NewRequest, opened: Opened, names: tuple[str, str], chosen: tuple[Answers, tuple[str, ...]]
) -> Project:
    (answers, groups), template = chosen, opened.template
    machine = chosen_machine(request.machine)
    matrix = load_matrix()
    selections = select_platforms(
        machine, request.selection.to_request(matrix), request.selection.known_platforms(matrix), matrix
    )
    return Project(
        template=template,
        name=names[0],
        package=names[1],
        answers=answers,
        selections=selections,
        texts=render_texts(selections, template.needs_with(groups), templates_root()),
        machine=machine_to_json(redact(machine)),
        groups=groups,
        origin=replace(opened.origin, source=_recorded_source(opened, request)),
    )


def _lock(request: NewRequest, project: Project) -> ProjectLock:
    try:
        with show_progress() as show:
            return obtain_lock(project.texts, request.lock.way(Path(), dry_run=request.dry_run), show)
    except EnvforgeError as error:
        solved = neighbours(project.template.name, project.selections)
        hints = [Hint(f"for a build that needs no solve, pass `{options}`") for options in solved]
        hints.append(Hint("to create the project without a lockfile, pass `--no-lock`"))
        error.hints = (*hints, *error.hints)
        raise


def _mention_abandoned(target: Path) -> None:
    for folder in abandoned(target):
        click.echo(
            f"note: `{folder}` is what a killed run left; nothing uses it, and it can be removed: rm -r '{folder}'",
            err=True,
        )


def _hooks(outcome: new_report.Outcome, *, trust: bool) -> None:
    """Show the commands that the template wants to be run, and run them where the user trusts it."""
    commands = outcome.project.template.hooks
    if not commands:
        return
    from envforge.project.hooks import run_hook, shown_hook

    head = (
        "Running what the template asks for:" if trust else "The template asks for these commands; --trust runs them:"
    )
    click.echo(f"\n{head}", err=True)
    for command in commands:
        click.echo(f"  {shown_hook(command)}", err=True)
    if trust:
        for command in commands:
            run_hook(command, outcome.target)


def _smoke(outcome: new_report.Outcome, *, as_json: bool) -> None:
    from envforge.machine.profiles import load_machine
    from envforge.project.smoke import run_smoke

    real = {name: value for name, value in os.environ.items() if not name.startswith("CONDA_OVERRIDE_")}
    here = load_machine(None, real)
    click.echo("\nSmoke test:", err=as_json)
    sys.stdout.flush()
    output = sys.stderr if as_json else None
    run_smoke(outcome.target, outcome.project.package, require_gpu=here.has_nvidia, output=output)
