"""What ``add`` and ``remove`` share: their options, and how the result is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from envforge.cli.options import chosen_mirrors, mirror_option
from envforge.cli.unfinished import tell_environment

if TYPE_CHECKING:
    from envforge.environment_file import Edit
    from envforge.lock import LockReport


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeOptions:
    """Where the change happens, and where packages are read."""

    file: Path
    lockfile: Path | None
    mirrors: tuple[str, ...]
    as_json: bool


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--file``, ``--lockfile`` and ``--mirror``."""
    for option in (
        mirror_option(),
        click.option(
            "--lockfile",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The lock that belongs to FILE.  [default: conda-lock.yml beside FILE]",
        ),
        click.option(
            "-f",
            "--file",
            type=click.Path(path_type=Path, dir_okay=False),
            default=Path("environment.yml"),
            show_default=True,
            help="What to change.",
        ),
    ):
        command = option(command)
    return command


def run_change(command: str, options: ChangeOptions, edit: Callable[[str], Edit]) -> None:
    """Change both files and say what has changed."""
    from envforge.cli.lock_progress import show_progress
    from envforge.lock import LockRequest
    from envforge.lock.change import change

    request = LockRequest(
        environment=options.file,
        lockfile=options.lockfile or options.file.with_name("conda-lock.yml"),
        mirrors=chosen_mirrors(options.mirrors),
    )
    tell_environment()
    with show_progress() as show:
        edited, report = change(request, edit, show)
    _tell(command, options, edited, report)


def _tell(command: str, options: ChangeOptions, edited: Edit, report: LockReport) -> None:
    from envforge.cli.lock import report_json, report_words, stale_warnings
    from envforge.report import success

    warnings = (*report.warnings, *stale_warnings(options.file))
    if options.as_json:
        result: dict[str, Any] = {"environment": str(options.file)}
        result |= {
            "added": list(edited.added),
            "removed": list(edited.removed),
            "lock": {**report_json(report), "warnings": list(warnings)},
        }
        click.echo(success(command, result))
    else:
        lines = [f"  - {text}" for text in edited.removed] + [f"  + {text}" for text in edited.added]
        click.echo(f"{options.file}{' is changed:' if lines else ' asks for that already'}")
        click.echo("\n".join([*lines, report_words(report)]))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
