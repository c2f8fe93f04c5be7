"""Add packages to environment.yml or remove them, and lock it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.options import (
    chosen_mirrors,
    file_options,
    json_option,
    mirror_option,
    sources_of,
    warn_of_incomplete_environment,
)

if TYPE_CHECKING:
    from envforge.lock.edit import Edit
    from envforge.lock.request import LockReport, LockRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeOptions:
    """The files to change, and how."""

    files: tuple[Path, ...]
    lockfile: Path | None
    mirrors: tuple[str, ...]
    dry_run: bool
    as_json: bool


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--file``, ``--lockfile``, ``--dry-run``, and ``--mirror``."""
    dry_run = click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
    return file_options(dry_run(mirror_option()(command)))


def run_change(command: str, options: ChangeOptions, edit: Callable[[str, str], Edit]) -> None:
    """Change both files and report the changes; ``edit`` receives the text and the path of the environment file."""
    from envforge.cli.progress import show_progress
    from envforge.lock.locking import change
    from envforge.lock.request import LockRequest

    environment, *others = sources_of(options.files)
    request = LockRequest(
        environment=environment,
        others=tuple(others),
        lockfile=options.lockfile or environment.with_name("conda-lock.yml"),
        mirrors=chosen_mirrors(options.mirrors),
    )
    warn_of_incomplete_environment()
    with show_progress() as show:
        edited, report = change(request, lambda text: edit(text, str(environment)), show, dry_run=options.dry_run)
    _report(command, options, request, edited, report)


def _report(command: str, options: ChangeOptions, request: LockRequest, edited: Edit, report: LockReport) -> None:
    from envforge.base.envelope import success
    from envforge.cli.lock import report_json, report_words, stale_warnings

    environment = request.environment
    warnings = report.warnings if options.dry_run else (*report.warnings, *stale_warnings(environment))
    if options.as_json:
        result: dict[str, Any] = {"environment": str(environment), "dry_run": options.dry_run}
        result |= {
            "added": list(edited.added),
            "removed": list(edited.removed),
            "lock": {**report_json(report), "warnings": list(warnings)},
        }
        click.echo(success(command, result))
    else:
        lines = [f"  - {text}" for text in edited.removed] + [f"  + {text}" for text in edited.added]
        changes = "would change:" if options.dry_run else "changed:"
        click.echo(f"{environment} {changes if lines else 'already lists these packages'}")
        click.echo("\n".join([*lines, report_words(report, dry_run=options.dry_run)]))
        if options.dry_run:
            click.echo("dry run: nothing was written")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


@click.command("add")
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@click.option("--pip", "is_pip", is_flag=True, help="Add wheels from the package index (PyPI or a mirror).")
@change_options
@json_option()
def add(*, packages: tuple[str, ...], is_pip: bool, **options: object) -> None:
    """Add packages to environment.yml, and update the lockfile in one transaction.

    PACKAGE is a conda package such as "scipy" or "numpy >=2", or, with --pip, a requirement such as "wandb>=0.19". If
    environment.yml already lists the package, its version constraint is replaced. Comments and order are preserved, and
    locked versions are kept if possible. If the lock fails, neither file changes.
    """
    from envforge.lock import edit

    chosen = ChangeOptions(**options)  # type: ignore[arg-type] # click gives each field its type
    new = edit.parse_packages(packages, "pip" if is_pip else "conda")
    run_change("add", chosen, lambda text, where: edit.add(text, new, where))


@click.command("remove")
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@change_options
@json_option()
def remove(*, packages: tuple[str, ...], **options: object) -> None:
    """Remove packages from environment.yml, and update the lockfile in one transaction.

    PACKAGE is the name of a conda package or of a wheel under `pip:`. Dependencies that no other package needs are
    removed from the lockfile; all other versions are kept. If the lock fails, neither file changes.
    """
    from envforge.lock import edit

    chosen = ChangeOptions(**options)  # type: ignore[arg-type] # click gives each field its type
    others = sources_of(chosen.files)[1:]
    run_change("remove", chosen, lambda text, where: edit.remove(text, packages, where, others))
