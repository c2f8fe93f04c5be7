"""Create a project from a template, and install and test it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.data_files import templates_root
from envforge.base.distribution import stated_requirement
from envforge.base.envelope import Json, fields_to_json
from envforge.base.staging import PlannedFile, settle_interrupted
from envforge.cli import print_result, wrapped
from envforge.cli.options import (
    DEFAULT_PREFIX,
    Argument,
    JsonOption,
    MachineOption,
    Option,
    chosen_machine,
    chosen_mirrors,
    hints_inside,
    machine_here,
    platform_here,
    repeated_command,
    takes,
)
from envforge.cli.progress import show_progress
from envforge.cli.project_options import LockSourceOptions, RequirementOption, SelectionOptions, TemplateOptions
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError, printable
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE
from envforge.project.create import (
    BuildQuery,
    Created,
    LockedProject,
    NewRequest,
    NoNetworkError,
    ProjectLock,
    draft_project,
    find_locked,
    locked_projects,
    obtain_lock,
    require_platform,
    write_project,
)
from envforge.project.plan import Placement, Project, check_folder_name, check_target
from envforge.project.questions import Answer, TemplateQuestion, shown
from envforge.project.templates import Opened, list_templates, open_template
from envforge.pytorch.matrix import load_matrix, selection_to_json

if TYPE_CHECKING:
    from envforge.lock.compile import PylockReport
    from envforge.lock.request import LockRequest
    from envforge.prefix.values import InstallReport

_PYTHON = DEFAULT_PREFIX / "python.exe" if os.name == "nt" else DEFAULT_PREFIX / "bin" / "python"
_LABEL = 12
_WIDEST = 100
_MOST_OFFERED = 2


class NewOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge new``."""

    template: Annotated[str | None, Argument()] = None
    directory: Annotated[str | None, Argument(metavar="[DIR]")] = None
    selection: SelectionOptions
    machine: MachineOption
    name: Annotated[
        str | None,
        Option(
            "Name of the project; its package has the same name in lowercase, with `_`.  [default: the name of DIR]"
        ),
    ]
    wishes: TemplateOptions
    envforge: RequirementOption
    defaults: Annotated[bool, Option("Don't prompt: use the default answer to every question that --var leaves open.")]
    force: Annotated[
        bool, Option("Write into a directory that isn't empty; files of yours in the way are kept as NAME.orig.")
    ]
    dry_run: Annotated[bool, Option("List every file with its size, without writing, solving, or installing anything.")]
    pylock: Annotated[bool, Option("Also write pylock.toml, with all Python packages, for uv and pip without conda.")]
    install: Annotated[bool, Option("Install the locked environment into DIR/.conda.")]
    smoke: Annotated[
        bool,
        Option(
            "Run the smoke test: with --install in the environment, else with this Python. Exits with 1 if it fails."
        ),
    ]
    trust: Annotated[bool, Option("Run the commands that a third-party template requests, after printing them.")]
    lock: LockSourceOptions
    as_json: JsonOption

    def request(self, target: Path) -> NewRequest:
        """Return the project to create in ``target``."""
        matrix = load_matrix()
        query = BuildQuery(
            machine=chosen_machine(self.machine),
            request=self.selection.to_request(matrix),
            platforms=self.selection.known_platforms(matrix),
            matrix=matrix,
        )
        return NewRequest(
            target=target,
            query=query,
            name=self.name,
            variables=self.wishes.var,
            with_groups=self.wishes.with_groups,
            without_groups=self.wishes.without_groups,
            way=self.lock.way(Path(), dry_run=self.dry_run),
            envforge_requirement=stated_requirement(self.envforge, os.environ) or "",
            force=self.force,
            dry_run=self.dry_run,
        )

    @property
    def is_quiet(self) -> bool:
        """True if no one can or should answer prompts."""
        return self.defaults or self.as_json or not (sys.stdin.isatty() and sys.stderr.isatty())


class Smoke(Struct, frozen=True, kw_only=True):
    """The result of ``--smoke``. ``ran`` is false if nothing was run; ``gpu`` is ``passed`` or ``not-run``.

    ``reason`` says why the GPU part was not run. ``shows_commands``: the report of the test ends with the commands that
    run the GPU part in the locked environment.
    """

    ran: bool
    gpu: str
    reason: str
    shows_commands: bool


class NewResult(Struct, frozen=True, kw_only=True):
    """What ``new`` did: the project, and what ``--install`` and ``--smoke`` did with it."""

    created: Created
    pylock: PylockReport | None = None
    installed: InstallReport | None = None
    smoke: Smoke | None = None

    @property
    def python(self) -> Path:
        """The Python of the project's environment."""
        return (self.created.target / _PYTHON).absolute()


@click.command()
@takes(NewOptions)
def new(options: NewOptions) -> None:
    """Create a project: environment, lockfile, mixed-precision training code, tests.

    TEMPLATE is a built-in template (see `envforge templates`), a directory (./DIR), or a git repository
    (git+https://…@REV). DIR is the directory to create; by default it has the template's name.

    Nothing is written until the builds, the answers, and the lockfile are known. Then all files are written in one
    transaction.
    """
    # a template from git is a temporary clone, which exists only in this block
    with open_template(_named(options.template), Path()) as opened:
        outcome = NewResult(created=_create(options, opened))
    if not options.as_json:
        _print_created(options, outcome.created)
    if not options.dry_run:
        if not options.pylock:
            _warn_of_stale_pylock(outcome.created)
        else:
            outcome = replace(outcome, pylock=_write_pylock(options, outcome.created))
        _run_hooks(outcome.created, trust=options.trust)
        if options.install:
            outcome = replace(outcome, installed=_install(options, outcome.created))
        if options.smoke:
            outcome = replace(outcome, smoke=_run_smoke_test(options, outcome))
    if options.as_json:
        print_result("new", _to_json(outcome), "", as_json=True)
    else:
        _print_next(outcome)


def _create(options: NewOptions, opened: Opened) -> Created:
    _check_options(options, opened)
    target = _target(opened.template.name if options.directory is None else options.directory)
    if not options.dry_run and settle_interrupted(target):
        click.echo(f"note: completed or undid an interrupted run in {target} first", err=True)
    check_target(target, force=options.force, can_force=True)
    request = options.request(target)
    project = draft_project(opened, request, None if options.is_quiet else _ask)
    if options.install:
        require_platform(project, platform_here())
    return write_project(project, _lock(options, project, request), request)


def _lock(options: NewOptions, project: Project, request: NewRequest) -> LockedProject:
    """Return the project with its lock; the hints of an error are variations of the command line."""
    with show_progress() as show:
        try:
            found = find_locked(project, request.query, request.way, show)
        except NoNetworkError as error:
            error.hints = _ways_without_solve(options, project, request.query)
            raise
        if found is not None:
            return found
        try:
            return LockedProject(project=project, lock=obtain_lock(project.texts, request.way, show))
        except EnvforgeError as error:
            # the project isn't written, so hints of the lock apply once it was created without a lockfile
            inside = hints_inside(request.target, error.hints, "then, in the project, ")
            error.hints = (*_ways_without_solve(options, project, request.query), *inside)
            raise


def _check_options(options: NewOptions, opened: Opened) -> None:
    """Raise for options that contradict each other or can't be followed, before anything is written."""
    if options.smoke and opened.is_foreign and not options.trust:
        raise RequestError(
            f"`--smoke` runs code of the template `{options.template}`, which isn't built into envforge",
            hint="to run it after you have read the template, add `--trust`",
            code="template-not-trusted",
        )
    for option, is_set, purpose in (
        ("install", options.install, "install the environment"),
        ("pylock", options.pylock, "write pylock.toml"),
    ):
        if is_set and options.lock.no_lock:
            raise RequestError(
                f"`--{option}` requires a lockfile, but `--no-lock` was provided",
                hint=f"to {purpose}, omit `--no-lock`; to create only the project, omit `--{option}`",
                code="no-lock-to-install",
            )
    if options.smoke and not options.install:
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


def _target(directory: str) -> Path:
    target = Path(directory)
    if not directory.strip():
        raise RequestError(f"DIR is empty: `{directory}`", hint="to name the directory, pass DIR", code="bad-target")
    for part in target.parts:
        check_folder_name(part, "DIR")
    # if a directory is a link, `..` leads elsewhere than it seems
    if ".." in target.parts:
        raise RequestError(
            f"DIR `{directory}` contains `..`",
            hint="to create the project there",
            command=repeated_command({"directory": str(target.resolve())}),
            code="bad-target",
        )
    return target


def _ask(question: TemplateQuestion) -> Answer:
    def parse(text: str) -> Answer:
        try:
            return question.parse(text)
        except ValueError as rule:
            raise click.UsageError(f"`{printable(text)}` is not a valid answer; expected {rule}") from rule

    prompt = f"{question.help} ({'/'.join(question.choices)})" if question.choices else question.help
    answer: Answer = click.prompt(prompt, default=shown(question.default), value_proc=parse, err=True)
    return answer


def _ways_without_solve(options: NewOptions, project: Project, query: BuildQuery) -> tuple[Hint, ...]:
    """Return the ways to a lockfile of the catalogue, as commands; then ``--no-lock``."""
    without = repeated_command({"no_lock": True, "fresh": None, "install": None})
    return (
        *ways_in_catalogue(project, query, python=options.selection.python is not None),
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
        ways.append(Hint(f"to use {other.torch}, whose lockfile is in the catalogue", command))
    return tuple(ways)


def _ways_for_one_platform(project: Project, query: BuildQuery) -> Iterator[Hint]:
    """Yield the platforms whose lockfile is in the catalogue, if the catalogue lacks their combination."""
    for platform in query.platforms if len(query.platforms) > 1 else ():
        if next(locked_projects(project, replace(query, platforms=(platform,))), None) is not None:
            command = repeated_command({"platforms": platform, "fresh": None})
            yield Hint(f"to create it only for {platform}, whose lockfile is in the catalogue", command)


def _run_hooks(created: Created, *, trust: bool) -> None:
    """Print the commands that the template requests, and run them with ``--trust``."""
    commands = created.project.template.hooks
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
            run_hook(command, created.target)


def _lock_request(created: Created) -> LockRequest:
    from envforge.lock.request import LockRequest

    return LockRequest(environment=created.target / ENVIRONMENT_FILE, lockfile=created.target / LOCK_FILE)


def _warn_of_stale_pylock(created: Created) -> None:
    """Print a warning if `--force` replaced the lockfile that a pylock.toml was made from."""
    if not created.placement.replaced or created.lock.text is None:
        return
    from envforge.cli.lock import stale_pylock

    for warning in stale_pylock(_lock_request(created)):
        click.echo(f"warning: {warning}", err=True)


def _write_pylock(options: NewOptions, created: Created) -> PylockReport:
    """Write pylock.toml into the project; a failure keeps the project."""
    from envforge.cli.lock import pylock_words
    from envforge.lock.compile import lock_pylock

    request = replace(_lock_request(created), mirrors=chosen_mirrors(options.lock.mirrors))
    later = f"cd {shlex.quote(str(created.target))} && envforge lock --pylock"
    try:
        with show_progress() as show:
            report = lock_pylock(request, show)
    except EnvforgeError as error:
        error.hints = (Hint("the project is complete; to write its pylock.toml later", later),)
        raise
    if not options.as_json:
        click.echo(pylock_words(report))
    return report


def _install(options: NewOptions, created: Created) -> InstallReport:
    """Install the lockfile into the project; a failure keeps the project."""
    from envforge.base.urls import show_url
    from envforge.cli.progress import shown_progress
    from envforge.prefix.install import install
    from envforge.prefix.values import InstallRequest

    enter = f"cd {shlex.quote(str(created.target))} &&"
    mirrors = "".join(f" --mirror {shlex.quote(show_url(rule))}" for rule in options.lock.mirrors)
    later = f"{enter} envforge install{mirrors}"
    cache = os.environ.get("ENVFORGE_CACHE")
    if not options.as_json:
        click.echo("\nInstall:")
        sys.stdout.flush()
    wanted = InstallRequest(
        lockfile=created.target / LOCK_FILE,
        prefix=created.target / DEFAULT_PREFIX,
        platform=platform_here(),
        mirrors=chosen_mirrors(options.lock.mirrors),
        cache=Path(cache) if cache else None,
        machine=machine_here,
    )
    again = Hint("the project is complete; to install its environment later", later)
    try:
        with shown_progress(quiet=options.as_json) as progress:
            report = install(wanted, progress)
    except KeyboardInterrupt:
        click.echo(f"note: the project is complete; to complete its environment, run `{later}`", err=True)
        raise
    except EnvforgeError as error:
        error.hints = (again, *(hint for hint in hints_inside(created.target, error.hints) if hint.command != later))
        raise
    except OSError as error:
        raise OutsideError(f"the installation failed: {error}", hint=(again,), code="operating-system") from error
    if not options.as_json:
        is_new = report.outcome != "unchanged"
        done = f"{report.outcome} {len(report.linked)} packages in {report.prefix}"
        click.echo(f"  {done if is_new else f'{report.prefix} already matches the lockfile'}")
    return report


def _run_smoke_test(options: NewOptions, outcome: NewResult) -> Smoke:
    """Run the smoke test in the environment or in this interpreter; a GPU is used only by the lockfile's own build."""
    from envforge.machine.record import load_machine
    from envforge.project.smoke import (
        SmokeRun,
        can_skip_gpu,
        gpu_skip_reason,
        interpreter_torch,
        is_other_build,
        run_smoke,
    )

    # the test runs on this machine, not on the one that these variables describe
    real = {name: value for name, value in os.environ.items() if not name.startswith("CONDA_OVERRIDE_")}
    here, created = load_machine(None, real), outcome.created
    project = created.project
    selection = next((s for s in project.selections if s.build.platform == here.platform), project.selections[0])
    lock_name = "the lockfile" if created.lock.text is not None else "environment.yml"
    found = None if options.install else interpreter_torch()
    reason = gpu_skip_reason(selection, here, load_matrix(), lock_name, found)
    can_skip = can_skip_gpu(created.files, project.package)
    is_other = found is not None and not selection.build.tag.is_cpu and is_other_build(found, selection)
    run = SmokeRun(
        python=str(outcome.python) if options.install else sys.executable,
        folder=created.target,
        package=project.package,
        require_gpu=not reason,
        skip_reason=reason if can_skip else "",
    )
    result = Smoke(
        # without a GPU, the test runs on the CPU even if it can't be told to skip
        ran=not reason or can_skip or not here.visible_gpus,
        gpu="not-run" if reason else "passed",
        reason=reason,
        shows_commands=is_other and bool(here.visible_gpus),
    )
    click.echo("\nSmoke test:", err=options.as_json)
    sys.stdout.flush()
    if result.ran:
        run_smoke(run, sys.stderr if options.as_json else None)
    if not options.as_json:
        _print_smoke(created, result)
    return result


def _next_commands(outcome: NewResult) -> tuple[str, ...]:
    """Return the commands that come next, ready to be pasted."""
    created = outcome.created
    commands = [f"cd {shlex.quote(str(created.target))}"]
    if created.lock.text is None:
        return (*commands, "envforge lock", "envforge install")
    if outcome.installed is None:
        commands.append("envforge install")
    tested = outcome.smoke is not None and outcome.smoke.ran and outcome.installed is not None
    module = next((name for name in ("smoke", "train")[tested:] if created.has_module(name)), None)
    if module is not None:
        commands.append(f"{_PYTHON} -m {created.project.package}.{module}")
    return tuple(commands)


def _print_created(options: NewOptions, created: Created) -> None:
    """Print the result to stdout, warnings to stderr."""
    project, files = created.project, created.files
    size = sum(len(file.content) for file in files) / 1024
    verb = "Would create" if created.dry_run else "Created"
    template = f"{project.template.name} {project.template.version}"
    click.echo(f"{verb} {project.name} in {created.target}: {len(files)} files, {size:.0f} KiB, from {template}\n")
    for selection in project.selections:
        pins = [f"{name} {pin}" for name, pin in selection.build.pins if name in project.template.needs.torch_family]
        _fact(selection.build.platform, ", ".join([*pins, f"Python {selection.python}"]))
        _fact("why", selection.reason)
        _fact("grade", selection.grade.value)
    if project.chosen:
        _fact("groups", _group_text(project))
    _fact("lockfile", _lock_text(created.lock))
    if created.lock.requirements:
        _fact("requires", created.lock.requirements)
    if created.dry_run and options.install:
        _fact("install", f"would install the lockfile into {created.target / DEFAULT_PREFIX}")
    if created.dry_run and options.smoke:
        where = f"with {created.target / _PYTHON}" if options.install else "with this Python"
        _fact("smoke test", f"would run {where}")
    _print_files(created)
    sys.stdout.flush()
    for note in created.notes:
        click.echo(f"note: {note}", err=True)
    for warning in created.warnings:
        click.echo(f"warning: {warning}", err=True)


def _print_next(outcome: NewResult) -> None:
    """Print the commands that come next."""
    if outcome.created.dry_run or (outcome.smoke is not None and outcome.smoke.shows_commands):
        return  # the report of the smoke test ends with the same commands
    click.echo("\nNext:")
    for command in _next_commands(outcome):
        click.echo(f"  {command}")


def _print_smoke(created: Created, smoke: Smoke) -> None:
    """Print why nothing was run, and the commands that run it; the smoke module itself reports a skipped GPU part."""
    if smoke.ran:
        return
    click.echo(f"not run, because {smoke.reason}")
    if smoke.shows_commands:
        make = "envforge install" if created.lock.text is not None else "envforge lock && envforge install"
        click.echo("To run it in the locked environment:")
        click.echo(f"  cd {shlex.quote(str(created.target))} && {make}")
        click.echo(f"  {_PYTHON} -m {created.project.package}.smoke")


def _fact(label: str, text: str) -> None:
    width = max(min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST), _LABEL + 42)
    click.echo("\n".join(wrapped(text, width, f"  {label:<{_LABEL}}", " " * (_LABEL + 2))))


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


def _print_files(created: Created) -> None:
    placement = created.placement
    if created.dry_run:
        click.echo("")
        for file in created.files:
            click.echo(f"  {len(file.content):>9,}  {_action(file, placement):<9}  {file.path}")
    elif placement.replaced:
        _fact("replaced", ", ".join(str(path) for path in placement.replaced))
    for path, kept in placement.kept:
        _fact("kept", f"your {path}, {'as' if created.dry_run else 'now'} {kept}")


def _action(file: PlannedFile, placement: Placement) -> str:
    if file.path in placement.replaced:
        return "replace"
    return "unchanged" if file.path in placement.unchanged else "create"


def _to_json(outcome: NewResult) -> Json:
    created = outcome.created
    from envforge.cli.lock import pylock_json

    project = created.project
    selections: list[Json] = [dict(selection_to_json(selection, candidates=False)) for selection in project.selections]
    files: list[Json] = [
        {"path": str(f.path), "bytes": len(f.content), "action": _action(f, created.placement)} for f in created.files
    ]
    return {
        "dry_run": created.dry_run,
        "directory": str(created.target.absolute()),
        "project": project.name,
        "package": project.package,
        "template": {"name": project.template.name, "version": project.template.version},
        "answers": dict(project.answers),
        "groups": dict(project.chosen),
        "selections": selections,
        "lock": {
            "origin": created.lock.origin,
            "entry": created.lock.entry or None,
            "date": created.lock.date.isoformat() if created.lock.date else None,
            "input_sha256": project.texts.sha256,
        },
        "files": files,
        "kept": [{"path": str(path), "kept_as": str(kept)} for path, kept in created.placement.kept],
        "notes": list(created.notes),
        "warnings": list(created.warnings),
        **pylock_json(outcome.pylock),
        "install": _install_json(outcome.installed),
        "smoke": _smoke_json(outcome.smoke),
        "next": list(_next_commands(outcome)),
    }


def _install_json(report: InstallReport | None) -> Json:
    if report is None:
        return None
    return {"prefix": str(report.prefix), "packages": len(report.linked), "outcome": report.outcome}


def _smoke_json(smoke: Smoke | None) -> Json:
    return None if smoke is None else {**fields_to_json(smoke, "shows_commands"), "reason": smoke.reason or None}
