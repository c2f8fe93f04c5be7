"""``envforge templates``: list and describe templates; start and test your own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import json_option

if TYPE_CHECKING:
    from envforge.project.templates import Template
    from envforge.project.trial import Trial


@click.group("templates", invoke_without_command=True)
@json_option()
@click.pass_context
def templates(context: click.Context, /, *, as_json: bool) -> None:
    """List the built-in templates; describe, start, and test templates.

    Without a command, each built-in template is listed with its groups.
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@templates.command("show")
@click.argument("name")
@json_option()
def show(*, name: str, as_json: bool) -> None:
    """Show the questions, groups, files, packages, and lockfiles of a template.

    NAME is a built-in template, a directory (./DIR), or a git repository (git+https://…@REV). No code of it is run.
    """
    from envforge.cli.templates_report import describe, describe_json
    from envforge.project.opened import open_template

    with open_template(name, Path()) as opened:
        click.echo(describe_json(opened) if as_json else describe(opened))


@templates.command("new")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option()
def new(*, folder: Path, as_json: bool) -> None:
    """Create a template in DIR: a manifest, code that trains, and its smoke test."""
    from envforge.project.place import place
    from envforge.project.staging import settle_interrupted
    from envforge.project.starter import plan_starter
    from envforge.report import success

    files = plan_starter(folder.absolute().name)
    settle_interrupted(folder)
    place(files, folder, force=False, written_before={})
    where = shlex.quote(str(folder))
    place_named = where if folder.is_absolute() or str(folder).startswith(".") else f"./{where}"
    commands = (f"envforge templates test {where}", f"envforge new {place_named} my-project")
    if as_json:
        listed = [str(file.path) for file in files]
        click.echo(success("templates new", {"folder": str(folder), "files": [*listed], "next": [*commands]}))
        return
    click.echo(f"Created a template in {folder}: {len(files)} files\n\nNext:")
    for command in commands:
        click.echo(f"  {command}")


@templates.command("test")
@click.argument("folder", metavar="[DIR]", default=".")
@click.option("--no-smoke", is_flag=True, help="Only render and check the template, without running its code.")
@json_option()
def test(*, folder: str, no_smoke: bool, as_json: bool) -> None:
    """Render the variants of the template in DIR, check the files, and run the smoke tests.

    Each pair of answers and groups occurs in at least one variant. Rendered Python is compiled and, if ruff is
    installed, linted; YAML, TOML, and JSON are parsed. The smoke tests are code of the template; they run with this
    Python, which needs torch. DIR may also be the name of a built-in template. Exits with 1 if a check fails.
    """
    from envforge.machine.profiles import load_machine
    from envforge.matrix import load_matrix
    from envforge.project.opened import is_source, open_template
    from envforge.project.trial import has_torch, try_template
    from envforge.select import select_platforms
    from envforge.selection import Request

    selection = select_platforms(load_machine("cpu", {}), Request(), (), load_matrix())[0]
    smoke = not no_smoke and has_torch()
    trials: list[Trial] = []
    name = f"./{folder}" if not is_source(folder) and Path(folder).is_dir() else folder
    with open_template(name, Path()) as opened:
        for trial in try_template(opened.template, selection, smoke=smoke):
            trials.append(trial)
            if not as_json:
                _say(trial, opened.template)
        _sum_up(trials, opened.template, asked=not no_smoke, as_json=as_json)
    if any(trial.problems for trial in trials):
        raise click.exceptions.Exit(1)


def _list(*, as_json: bool) -> None:
    from envforge.cli.templates_report import overview, overview_json
    from envforge.project.templates import list_templates, load_template
    from envforge.resources import templates_root

    found = [load_template(templates_root(), name) for name in list_templates(templates_root())]
    click.echo(overview_json(found) if as_json else overview(found))


def _say(trial: Trial, template: Template) -> None:
    verdict = "failed" if trial.problems else "ok"
    smoke = "" if trial.smoke in ("none", "skipped") else f", smoke test {_SMOKE[trial.smoke]}"
    click.echo(f"{verdict:<7} {trial.variant.words(template)}: {trial.files} files{smoke}")
    for problem in trial.problems:
        click.echo(f"        {problem}")


_SMOKE = {"passed": "passed", "failed": "failed", "same": "passed before (same code)"}


def _sum_up(trials: list[Trial], template: Template, *, asked: bool, as_json: bool) -> None:
    from envforge.project.trial import has_ruff, has_torch
    from envforge.report import Json, success

    left_out = (
        []
        if has_ruff()
        else ["nothing was linted, because ruff isn't installed; to install it, run `pip install ruff`"]
    )
    if asked and not has_torch() and any(trial.smoke == "skipped" for trial in trials):
        from envforge.distribution import extra_command

        torch = f"this Python has no torch; to install it, run `{extra_command('smoke')}`"
        left_out.append(f"no smoke test was run, because {torch}")
    if as_json:
        rows: list[Json] = [
            {
                "variant": trial.variant.words(template),
                "answers": dict(trial.variant.answers),
                "groups": list(trial.variant.groups),
                "files": trial.files,
                "smoke": trial.smoke,
                "problems": list(trial.problems),
            }
            for trial in trials
        ]
        click.echo(success("templates test", {"template": template.name, "variants": rows, "left_out": [*left_out]}))
        return
    failed = sum(bool(trial.problems) for trial in trials)
    variants = "1 variant" if len(trials) == 1 else f"{len(trials)} variants"
    click.echo(f"\n{template.name} {template.version}: {variants}, {failed} failed")
    for line in left_out:
        click.echo(f"note: {line}", err=True)
