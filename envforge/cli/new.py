"""Create a project from a template."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from envforge.base.data_files import templates_root
from envforge.base.distribution import stated_requirement
from envforge.base.staging import settle_interrupted
from envforge.cli import new_report
from envforge.cli.new_report import locked
from envforge.cli.options import (
    DEFAULT_PREFIX,
    Decorator,
    chosen_machine,
    chosen_mirrors,
    hints_inside,
    json_option,
    machine_here,
    machine_option,
    platform_here,
    repeated_command,
)
from envforge.cli.project_options import (
    LockOptions,
    SelectionOptions,
    TemplateOptions,
    lock_options,
    requirement_option,
    selection_options,
    template_options,
)
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError, printable
from envforge.lock.environment_spec import (
    LOCK_FILE,
    TORCH_FAMILY,
    render_texts,
    split_conda_spec,
    torch_requirement_names,
)
from envforge.machine.record import machine_to_json, redact
from envforge.project.locking import BuildQuery
from envforge.project.names import check_folder_name, check_project_name, package_name
from envforge.project.place import abandoned, check_target, enclosing_repository, place, plan_placement
from envforge.project.plan import Project, plan_project
from envforge.project.questions import Answer, Question, choose_groups, shown
from envforge.project.record import written_files
from envforge.project.template_source import Opened, open_template, source_from
from envforge.project.templates import Template, gather_answers, list_templates
from envforge.pytorch.matrix import load_matrix


def run_hooks(outcome: new_report.Outcome, *, trust: bool) -> None:
    """Print the commands that the template requests, and run them with ``--trust``."""
    commands = outcome.project.template.hooks
    if not commands:
        return
    from envforge.project.smoke import run_hook, shown_hook

    head = (
        "Running the commands that the template requests:"
        if trust
        else "The template requests these commands; to run them, pass --trust:"
    )
    click.echo(f"\n{head}", err=True)
    for command in commands:
        click.echo(f"  {shown_hook(command)}", err=True)
    if trust:
        for command in commands:
            run_hook(command, outcome.target)


def check_platform(project: Project) -> None:
    """Raise if the project has no packages for the platform of this computer."""
    here = platform_here()
    if here not in {each.build.platform for each in project.selections}:
        platforms = ", ".join(f"`{each.build.platform}`" for each in project.selections)
        raise RequestError(
            f"`--install` requires a project for `{here}`, the platform of this computer, but it is for {platforms}",
            hint="to create the project without its environment, omit `--install`",
            code="no-platform-to-install",
        )


def install_lock(request: NewRequest, outcome: new_report.Outcome) -> new_report.Installed:
    """Install the lockfile into the project; a failure keeps the project."""
    from envforge.base.urls import show_url
    from envforge.cli.progress import shown_progress
    from envforge.prefix.install import install
    from envforge.prefix.values import InstallRequest

    enter = f"cd {shlex.quote(str(outcome.target))} &&"
    options = "".join(f" --mirror {shlex.quote(show_url(rule))}" for rule in request.lock.mirrors)
    later = f"{enter} envforge install{options}"
    cache = os.environ.get("ENVFORGE_CACHE")
    if not request.as_json:
        click.echo("\nInstall:")
        sys.stdout.flush()
    wanted = InstallRequest(
        lockfile=outcome.target / LOCK_FILE,
        prefix=outcome.target / DEFAULT_PREFIX,
        platform=platform_here(),
        mirrors=chosen_mirrors(request.lock.mirrors),
        cache=Path(cache) if cache else None,
        machine=machine_here,
    )
    again = Hint("the project is complete; to install its environment later", later)
    try:
        with shown_progress(quiet=request.as_json) as progress:
            report = install(wanted, progress)
    except KeyboardInterrupt:
        click.echo(f"note: the project is complete; to complete its environment, run `{later}`", err=True)
        raise
    except EnvforgeError as error:
        error.hints = (again, *(hint for hint in hints_inside(outcome.target, error.hints) if hint.command != later))
        raise
    except OSError as error:
        raise OutsideError(f"the installation failed: {error}", hint=(again,), code="operating-system") from error
    installed = new_report.Installed(prefix=report.prefix, packages=len(report.linked), outcome=report.outcome)
    if not request.as_json:
        click.echo(f"  {new_report.installed_text(installed)}")
    return installed


def run_smoke_test(request: NewRequest, outcome: new_report.Outcome) -> new_report.Smoke:
    """Run the smoke test in the environment or in this interpreter; a GPU is used only by the lockfile's own build."""
    from envforge.machine.profiles import load_machine
    from envforge.project.smoke import (
        SmokeRun,
        can_skip_gpu,
        gpu_skip_reason,
        interpreter_torch,
        is_other_build,
        run_smoke,
    )

    real = {name: value for name, value in os.environ.items() if not name.startswith("CONDA_OVERRIDE_")}
    here, project = load_machine(None, real), outcome.project
    selection = next((s for s in project.selections if s.build.platform == here.platform), project.selections[0])
    lock_name = "the lockfile" if outcome.lock.text is not None else "environment.yml"
    found = None if request.install else interpreter_torch()
    reason = gpu_skip_reason(selection, here, load_matrix(), lock_name, found)
    can_skip = can_skip_gpu(outcome.files, project.package)
    is_other = found is not None and not selection.build.tag.is_cpu and is_other_build(found, selection)
    run = SmokeRun(
        python=str(outcome.python) if request.install else sys.executable,
        folder=outcome.target,
        package=project.package,
        require_gpu=not reason,
        skip_reason=reason if can_skip else "",
    )
    result = new_report.Smoke(
        ran=not reason or can_skip or not here.visible_gpus,
        gpu="not-run" if reason else "passed",
        reason=reason,
        shows_commands=is_other and bool(here.visible_gpus),
    )
    click.echo("\nSmoke test:", err=request.as_json)
    sys.stdout.flush()
    if result.ran:
        run_smoke(run, sys.stderr if request.as_json else None)
    if not request.as_json:
        new_report.say_smoke(outcome, result)
    return result


Answers = tuple[tuple[str, Answer], ...]

_HELP = {
    "name": "Name of the project; its package has the same name in lowercase, with `_`.  [default: the name of DIR]",
    "defaults": "Don't prompt: use the default answer to every question that --var leaves open.",
    "force": "Write into a directory that isn't empty; files of yours in the way are kept as NAME.orig.",
    "dry_run": "List every file with its size, without writing, solving, or installing anything.",
    "trust": "Run the commands that a third-party template requests, after printing them.",
    "install": "Install the locked environment into DIR/.conda.",
    "smoke": "Run the smoke test: with --install in the environment, else with this Python. Exits with 1 if it fails.",
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
    envforge: str | None
    defaults: bool
    force: bool
    dry_run: bool
    install: bool
    smoke: bool
    trust: bool
    as_json: bool


def _own_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options: list[Decorator] = [
        click.option("--defaults", is_flag=True, help=_HELP["defaults"]),
        click.option("--force", is_flag=True, help=_HELP["force"]),
        click.option("--dry-run", is_flag=True, help=_HELP["dry_run"]),
        click.option("--install", is_flag=True, help=_HELP["install"]),
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
@requirement_option()
@_own_options
@lock_options()
@json_option()
def new(
    selection_options: SelectionOptions, template_options: TemplateOptions, lock_options: LockOptions, **options: Any
) -> None:
    """Create a project: environment, lockfile, mixed-precision training code, tests.

    TEMPLATE is a built-in template (see `envforge templates`), a directory (./DIR), or a git repository
    (git+https://…@REV). DIR is the directory to create; by default it has the template's name.

    Nothing is written until the builds, the answers, and the lockfile are known. Then all files are written in one
    transaction.
    """
    request = NewRequest(selection=selection_options, wishes=template_options, lock=lock_options, **options)
    with open_template(_named(request.template), Path()) as opened:
        outcome = _create(request, opened)
    if not request.as_json:
        new_report.print_new(outcome)
    if not request.dry_run:
        run_hooks(outcome, trust=request.trust)
        if request.install:
            outcome = replace(outcome, installed=install_lock(request, outcome))
        if request.smoke:
            outcome = replace(outcome, smoke=run_smoke_test(request, outcome))
    if request.as_json:
        click.echo(new_report.as_json(outcome))
    else:
        new_report.say_next(outcome)


def _create(request: NewRequest, opened: Opened) -> new_report.Outcome:
    template = opened.template
    _check_options(request, opened)
    target = _target(template.name if request.directory is None else request.directory)
    name = _name(request, target)
    package = package_name(name, _name_option(request), _installed(template))
    if not request.dry_run and settle_interrupted(target):
        click.echo(f"note: completed or undid an interrupted run in {target} first", err=True)
    check_target(target, force=request.force, can_force=True)
    answers = gather_answers(template, request.wishes.var, None if _is_quiet(request) else _ask)
    groups = choose_groups(template.groups, dict(answers), request.wishes.with_groups, request.wishes.without_groups)
    query = _query(request)
    project = _project(request, opened, (name, package), (answers, groups), query)
    if request.install:
        check_platform(project)
    project, lock, notes = locked(request, project, query)
    files = plan_project(project, lock.text)
    written_before = written_files(target)
    if request.dry_run:
        placement = plan_placement(files, target, written_before)
    else:
        placement = place(files, target, force=request.force, written_before=written_before)
        _mention_abandoned(target)
    return new_report.Outcome(
        project=project,
        target=target,
        files=files,
        placement=placement,
        lock=lock,
        notes=(*notes, *_repository_note(target)),
        dry_run=request.dry_run,
        wants_install=request.install,
        wants_smoke=request.smoke,
    )


def _check_options(request: NewRequest, opened: Opened) -> None:
    """Raise for options that contradict each other or can't be followed, before anything is written."""
    if request.smoke and opened.is_foreign and not request.trust:
        raise RequestError(
            f"`--smoke` runs code of the template `{request.template}`, which isn't built into envforge",
            hint="to run it after you have read the template, add `--trust`",
            code="template-not-trusted",
        )
    if request.install and request.lock.no_lock:
        raise RequestError(
            "`--install` requires a lockfile, but `--no-lock` was provided",
            hint="to install the environment, omit `--no-lock`; to create only the project, omit `--install`",
            code="no-lock-to-install",
        )
    if request.smoke and not request.install:
        from envforge.project.smoke import require_torch

        require_torch()


def _named(name: str | None) -> str:
    if name is None:
        known = ", ".join(f"`{each}`" for each in list_templates(templates_root()))
        raise RequestError(
            f"no template was provided; expected one of {known}, a directory, or a git repository",
            hint="to describe the built-in templates",
            command="envforge templates",
            code="no-template-named",
        )
    return name


def _recorded_source(opened: Opened, request: NewRequest) -> str:
    if not opened.is_foreign:
        return ""
    return source_from(opened.origin.source, _target(request.directory or opened.template.name))


def _target(directory: str) -> Path:
    target = Path(directory)
    if not directory.strip():
        raise RequestError(f"DIR is empty: `{directory}`", hint="to name the directory, pass DIR", code="bad-target")
    for part in target.parts:
        check_folder_name(part, "DIR")
    if ".." in target.parts:
        raise RequestError(
            f"DIR `{directory}` contains `..`",
            hint="to create the project there",
            command=repeated_command({"directory": str(target.resolve())}),
            code="bad-target",
        )
    return target


def _name_option(request: NewRequest) -> str:
    return "--name" if request.name is not None else "DIR"


def _name(request: NewRequest, target: Path) -> str:
    name = request.name if request.name is not None else target.absolute().name
    return check_project_name(name, _name_option(request))


def _installed(template: Template) -> tuple[str, ...]:
    """Return the names that the environment's packages are imported by; ``names`` knows those that differ."""
    needs = template.needs_with([group.name for group in template.groups])
    return (*TORCH_FAMILY, *torch_requirement_names(), *(split_conda_spec(spec)[0] for spec in needs.conda))


def _is_quiet(request: NewRequest) -> bool:
    return request.defaults or request.as_json or not (sys.stdin.isatty() and sys.stderr.isatty())


def _ask(question: Question) -> Answer:
    def parse(text: str) -> Answer:
        try:
            return question.parse(text)
        except ValueError as rule:
            raise click.UsageError(f"`{printable(text)}` is not a valid answer; expected {rule}") from rule

    prompt = f"{question.help} ({'/'.join(question.choices)})" if question.choices else question.help
    answer: Answer = click.prompt(prompt, default=shown(question.default), value_proc=parse, err=True)
    return answer


def _query(request: NewRequest) -> BuildQuery:
    matrix = load_matrix()
    return BuildQuery(
        machine=chosen_machine(request.machine),
        request=request.selection.to_request(matrix),
        platforms=request.selection.known_platforms(matrix),
        matrix=matrix,
    )


def _project(
    request: NewRequest,
    opened: Opened,
    names: tuple[str, str],
    chosen: tuple[Answers, tuple[str, ...]],
    query: BuildQuery,
) -> Project:
    (answers, groups), template, selections = chosen, opened.template, query.select()
    return Project(
        template=template,
        name=names[0],
        package=names[1],
        answers=answers,
        selections=selections,
        texts=render_texts(selections, template.needs_with(groups), templates_root()),
        machine=machine_to_json(redact(query.machine)),
        groups=groups,
        origin=replace(opened.origin, source=_recorded_source(opened, request)),
        envforge_requirement=stated_requirement(request.envforge, os.environ) or "",
    )


def _repository_note(target: Path) -> tuple[str, ...]:
    repository = enclosing_repository(target)
    if repository is None:
        return ()
    note = f"{target} is inside another git repository, which begins at {repository}"
    return (f"{note}; to keep the project out of it, choose a DIR outside",)


def _mention_abandoned(target: Path) -> None:
    for folder in abandoned(target):
        click.echo(
            f"note: an interrupted run left `{folder}`, which nothing uses; to remove it, run "
            f"`rm -r {shlex.quote(str(folder))}`",
            err=True,
        )
