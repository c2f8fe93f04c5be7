"""Run the steps of ``envforge new`` after the project is written: hooks, installation, smoke test."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli import new_report
from envforge.cli.options import chosen_mirrors, hints_inside, machine_here, platform_here
from envforge.cli.prefix_options import DEFAULT_PREFIX
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError
from envforge.matrix import load_matrix
from envforge.spec import LOCK_FILE

if TYPE_CHECKING:
    from envforge.cli.new import NewRequest
    from envforge.project import Project


def run_hooks(outcome: new_report.Outcome, *, trust: bool) -> None:
    """Print the commands that the template requests, and run them with ``--trust``."""
    commands = outcome.project.template.hooks
    if not commands:
        return
    from envforge.project.hooks import run_hook, shown_hook

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
    from envforge.cli.progress import shown_progress
    from envforge.install import InstallRequest, install
    from envforge.install.credentials import without_credentials

    enter = f"cd {shlex.quote(str(outcome.target))} &&"
    options = "".join(f" --mirror {shlex.quote(without_credentials(rule))}" for rule in request.lock.mirrors)
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
