"""Define the options of ``add`` and ``remove``, and report their result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.lock_options import environment_of, file_options
from envforge.cli.options import chosen_mirrors, mirror_option
from envforge.cli.unfinished import tell_environment

if TYPE_CHECKING:
    from envforge.environment_file import Edit
    from envforge.lock import LockReport, LockRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeOptions:
    """The files to change, and how."""

    file: Path | None
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
    from envforge.cli.lock_progress import show_progress
    from envforge.lock import LockRequest
    from envforge.lock.change import change

    environment = environment_of(options.file)
    request = LockRequest(
        environment=environment,
        lockfile=options.lockfile or environment.with_name("conda-lock.yml"),
        mirrors=chosen_mirrors(options.mirrors),
    )
    tell_environment()
    with show_progress() as show:
        edited, report = change(request, lambda text: edit(text, str(environment)), show, dry_run=options.dry_run)
    _report(command, options, request, edited, report)


def _report(command: str, options: ChangeOptions, request: LockRequest, edited: Edit, report: LockReport) -> None:
    from envforge.cli.lock import report_json, report_words, stale_warnings
    from envforge.report import success

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
