"""List, show, create, and test templates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.base.data_files import lockfiles_root
from envforge.base.envelope import fields_to_json
from envforge.catalogue.index import list_entries
from envforge.cli import print_result, wrapped
from envforge.cli.options import Argument, JsonOption, Option, OutputOptions, takes
from envforge.cli.progress import counted
from envforge.errors import printable
from envforge.project.questions import Answer, TemplateQuestion, When, answers_of, conditions, shown
from envforge.project.smoke import shown_hook
from envforge.project.templates import Opened, Template, group_sources, project_sources

if TYPE_CHECKING:
    from envforge.project.trial import Trial


class ShowTemplateOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge templates show``."""

    name: Annotated[str, Argument()]
    as_json: JsonOption


class StartOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge templates new``."""

    folder: Annotated[Path, Argument(metavar="DIR", type=click.Path(path_type=Path))]
    as_json: JsonOption


class TrialOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge templates test``."""

    folder: Annotated[str, Argument(metavar="[DIR]")] = "."
    no_smoke: Annotated[bool, Option("Only render and check the template, without running its code.")]
    as_json: JsonOption


@click.group("templates", invoke_without_command=True)
@click.pass_context
@takes(OutputOptions)
def templates(context: click.Context, options: OutputOptions) -> None:
    """List the built-in templates; describe, start, and test templates.

    Without a command, each built-in template is listed with its groups.
    """
    if context.invoked_subcommand is None:
        _list(as_json=options.as_json)


@templates.command("show")
@takes(ShowTemplateOptions)
def show(options: ShowTemplateOptions) -> None:
    """Show the questions, groups, files, packages, and lockfiles of a template.

    NAME is a built-in template, a directory (./DIR), or a git repository (git+https://…@REV). No code of it is run.
    """
    from envforge.project.templates import open_template

    with open_template(options.name, Path()) as opened:
        print_result("templates show", _described(opened), _describe(opened), as_json=options.as_json)


@templates.command("new")
@takes(StartOptions)
def new(options: StartOptions) -> None:
    """Create a template in DIR: a manifest, code that trains, and its smoke test."""
    from envforge.base.staging import settle_interrupted
    from envforge.project.plan import place
    from envforge.project.template_source import plan_starter

    folder = options.folder
    files = plan_starter(folder.absolute().name)
    settle_interrupted(folder)
    place(files, folder, force=False, written_before={})
    where = shlex.quote(str(folder))
    place_named = where if folder.is_absolute() or str(folder).startswith(".") else f"./{where}"
    commands = (f"envforge templates test {where}", f"envforge new {place_named} my-project")
    result = {"folder": folder, "files": [file.path for file in files], "next": commands}
    text = "\n  ".join([f"Created a template in {folder}: {len(files)} files\n\nNext:", *commands])
    print_result("templates new", result, text, as_json=options.as_json)


@templates.command("test")
@takes(TrialOptions)
def test(options: TrialOptions) -> None:
    """Render the variants of the template in DIR, check the files, and run the smoke tests.

    Each pair of answers and groups occurs in at least one variant. Rendered Python is compiled and, if ruff is
    installed, linted; YAML, TOML, and JSON are parsed. The smoke tests are code of the template; they run with this
    Python, which needs torch. DIR may also be the name of a built-in template. Exits with 1 if a check fails.
    """
    from envforge.machine.record import load_machine
    from envforge.project.templates import is_source, open_template
    from envforge.project.trial import has_torch, try_template
    from envforge.pytorch.matrix import Request, load_matrix
    from envforge.pytorch.select import select_platforms

    selection = select_platforms(load_machine("cpu", {}), Request(), (), load_matrix())[0]
    smoke = not options.no_smoke and has_torch()
    trials: list[Trial] = []
    folder = options.folder
    name = f"./{folder}" if not is_source(folder) and Path(folder).is_dir() else folder
    with open_template(name, Path()) as opened:
        for trial in try_template(opened.template, selection, smoke=smoke):
            trials.append(trial)
            if not options.as_json:
                _say(trial, opened.template)
        _sum_up(trials, opened.template, asked=not options.no_smoke, as_json=options.as_json)
    if any(trial.problems for trial in trials):
        raise click.exceptions.Exit(1)


def _list(*, as_json: bool) -> None:
    from envforge.base.data_files import templates_root
    from envforge.project.templates import list_templates, load_template

    found = [load_template(templates_root(), name) for name in list_templates(templates_root())]
    rows = [
        {
            "name": template.name,
            "version": template.version,
            "summary": template.summary,
            "groups": [group.name for group in template.groups],
        }
        for template in found
    ]
    print_result("templates", {"templates": rows}, _overview(found), as_json=as_json)


def _say(trial: Trial, template: Template) -> None:
    verdict = "failed" if trial.problems else "ok"
    smoke = "" if trial.smoke in ("none", "skipped") else f", smoke test {_SMOKE[trial.smoke]}"
    click.echo(f"{verdict:<7} {trial.variant.words(template)}: {trial.files} files{smoke}")
    for problem in trial.problems:
        click.echo(f"        {problem}")


_SMOKE = {"passed": "passed", "failed": "failed", "same": "passed before (same code)"}


def _sum_up(trials: list[Trial], template: Template, *, asked: bool, as_json: bool) -> None:
    from envforge.project.trial import has_ruff, has_torch

    left_out = (
        []
        if has_ruff()
        else ["nothing was linted, because ruff isn't installed; to install it, run `pip install ruff`"]
    )
    if asked and not has_torch() and any(trial.smoke == "skipped" for trial in trials):
        from envforge.base.distribution import extra_command

        torch = f"this Python has no torch; to install it, run `{extra_command('smoke')}`"
        left_out.append(f"no smoke test was run, because {torch}")
    rows = [
        {
            **fields_to_json(trial),
            "variant": trial.variant.words(template),
            "answers": dict(trial.variant.answers),
            "groups": trial.variant.groups,
        }
        for trial in trials
    ]
    failed = sum(bool(trial.problems) for trial in trials)
    text = f"\n{template.name} {template.version}: {counted(len(trials), 'variant')}, {failed} failed"
    result = {"template": template.name, "variants": rows, "left_out": left_out}
    print_result("templates test", result, text, as_json=as_json)
    for line in () if as_json else left_out:
        click.echo(f"note: {line}", err=True)


_WIDTH = 100


def _overview(templates: Sequence[Template]) -> str:
    """Return every template with its summary and groups."""
    blocks = []
    for template in templates:
        groups = ", ".join(group.name for group in template.groups)
        lines = [f"{template.name} {template.version}", *_wrapped(template.summary)]
        lines += _wrapped(f"groups: {groups}") if groups else []
        blocks.append("\n".join(lines))
    return "\n".join(
        [
            *blocks,
            "",
            "To describe a template, run `envforge templates show NAME`; to use it, run `envforge new NAME [DIR]`.",
        ]
    )


def _describe(opened: Opened) -> str:
    """Return the questions, groups, files, and packages of a template."""
    template = opened.template
    lines = [f"{template.name} {template.version}", *_wrapped(template.summary)]
    if opened.is_foreign:
        commit = f" at {opened.origin.commit[:10]}" if opened.origin.commit else ""
        lines += _wrapped(f"from {opened.origin.source}{commit}")
    lines += _section("Questions (--var NAME=VALUE)", [_question(question) for question in template.questions])
    lines += _section("Groups (--with NAME, --without NAME)", _groups(template))
    lines += _section("Files", [str(path) for path in _places(template)])
    needs = [*template.needs.torch_family, *template.needs.conda]
    lines += _section("Packages", [", ".join(needs)])
    lines += _section("Lockfiles in the catalogue", _locks(template) if not opened.is_foreign else [])
    lines += _section("Commands (run only with --trust)", [shown_hook(command) for command in template.hooks])
    return "\n".join(lines)


def _described(opened: Opened) -> dict[str, object]:
    """Return the result of ``templates show --json``."""
    template = opened.template
    questions = [{**fields_to_json(question), "when": _when(question.when)} for question in template.questions]
    groups = [
        {**fields_to_json(group), "files": _group_places(template, group.name), "when": _when(group.when)}
        for group in template.groups
    ]
    return {
        "name": template.name,
        "version": template.version,
        "summary": template.summary,
        "source": opened.origin.source or None,
        "commit": opened.origin.commit or None,
        "questions": questions,
        "groups": groups,
        "files": _places(template),
        "needs": {"torch": template.needs.torch_family, "conda": template.needs.conda},
        "locks": [] if opened.is_foreign else _locks(template),
        "hooks": template.hooks,
    }


def _when(when: When) -> dict[str, tuple[Answer, ...]]:
    return {name: answers_of(value) for name, value in when.items()}


def _question(question: TemplateQuestion) -> str:
    asked = f"{', '.join(question.choices)}; " if question.choices else f"{question.type}; "
    text = f"{question.name}  {question.help} ({asked}default {shown(question.default)})"
    return text + _only(question.when)


def _groups(template: Template) -> list[str]:
    lines = []
    for group in template.groups:
        files = ", ".join(str(path) for path in _group_places(template, group.name))
        text = f"{group.name}  {group.help}{' (default)' if group.default else ''}"
        text += _only(group.when)
        lines.append(f"{text}: {files}" + (f"; needs {', '.join(group.conda)}" if group.conda else ""))
    return lines


def _only(when: When) -> str:
    return f", only with {' and '.join(conditions(when))}" if when else ""


def _places(template: Template) -> tuple[PurePosixPath, ...]:
    """Return the paths of a project without groups; ``PACKAGE`` is a placeholder for the name of its package."""
    return tuple(sorted(_place(source.path) for source in project_sources(template, ())))


def _group_places(template: Template, name: str) -> tuple[PurePosixPath, ...]:
    group = next(group for group in template.groups if group.name == name)
    return tuple(dict.fromkeys(_place(source.path) for source in group_sources(template, group)))


def _place(path: PurePosixPath) -> PurePosixPath:
    shown_path = str(path).removesuffix(".jinja").replace("__package__", "PACKAGE")
    return PurePosixPath(printable(shown_path))


def _locks(template: Template) -> list[str]:
    return [
        f"{entry.variant}: torch {entry.selection.torch}, Python {entry.selection.python}, {', '.join(entry.platforms)}"
        for entry in list_entries(lockfiles_root())
        if entry.template == template.name
    ]


def _section(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    return ["", title, *(part for line in lines for part in _wrapped(line))]


def _wrapped(text: str) -> list[str]:
    return wrapped(text, _WIDTH, "  ", " " * 6)
