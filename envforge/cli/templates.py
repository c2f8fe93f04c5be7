"""``envforge templates``: what there is, what each asks and gives, and the tools to make one's own."""

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
    """Show the templates that there are; start and test one of your own.

    Without a command: each template with what it gives.
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@templates.command("show")
@click.argument("name")
@json_option()
def show(*, name: str, as_json: bool) -> None:
    """Show what a template asks, its groups of files, its files, what it needs, and the locks that are there for it.

    NAME is a template of envforge's, a folder (./FOLDER) or a git repository (git+https://…@REV). Nothing of it is run.
    """
    from envforge.cli.templates_report import describe, describe_json
    from envforge.project.opened import open_template

    with open_template(name, Path()) as opened:
        click.echo(describe_json(opened) if as_json else describe(opened))


@templates.command("new")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option()
def new(*, folder: Path, as_json: bool) -> None:
    """Start a template in FOLDER: a manifest, code that trains, and its smoke test."""
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
    click.echo(f"Wrote a template into {folder}: {len(files)} files\n\nNext:")
    for command in commands:
        click.echo(f"  {command}")


@templates.command("test")
@click.argument("folder", default=".")
@click.option("--no-smoke", is_flag=True, help="Render and check only: run no code of the template.")
@json_option()
def test(*, folder: str, no_smoke: bool, as_json: bool) -> None:
    """Render all variants of the template in FOLDER, check what comes out, and run their smoke tests.

    Every two answers and groups meet in one of the variants. Rendered Python is compiled and, where ruff is there,
    linted; YAML, TOML and JSON are read. The smoke tests run with this Python, which needs torch: they are code of the
    template. FOLDER may also be the name of a template of envforge's. Exit 1 where anything is wrong.
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


_SMOKE = {"passed": "passed", "failed": "failed", "same": "as before (the same code)"}


def _sum_up(trials: list[Trial], template: Template, *, asked: bool, as_json: bool) -> None:
    from envforge.project.trial import has_ruff, has_torch
    from envforge.report import Json, success

    left_out = [] if has_ruff() else ["nothing was linted: ruff is not here (pip install ruff)"]
    if asked and not has_torch() and any(trial.smoke == "skipped" for trial in trials):
        left_out.append("no smoke test was run: this Python has no torch (pip install 'envforge[smoke]')")
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
    click.echo(f"\n{template.name} {template.version}: {len(trials)} variants, {failed} failed")
    for line in left_out:
        click.echo(f"note: {line}", err=True)
