"""Add packages to environment.yml or remove them, and lock it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.cli import print_result
from envforge.cli.lock import report_json, report_words, stale_pylock, stale_warnings
from envforge.cli.options import (
    Argument,
    FileOptions,
    JsonOption,
    MirrorsOption,
    Option,
    takes,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import show_progress

if TYPE_CHECKING:
    from envforge.lock.edit import Edit
    from envforge.lock.request import LockReport, LockRequest


class ChangeOptions(Struct, frozen=True, kw_only=True):
    """The files to change, and how."""

    sources: FileOptions
    dry_run: Annotated[bool, Option("Show what would change, and write nothing.")]
    mirrors: MirrorsOption
    as_json: JsonOption

    def request(self) -> LockRequest:
        """Return the request to lock the files once they are changed."""
        return self.sources.request(self.mirrors)


class AddOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge add``."""

    packages: Annotated[tuple[str, ...], Argument(metavar="PACKAGE...")]
    is_pip: Annotated[bool, Option("Add wheels from the package index (PyPI or a mirror).", "--pip")]
    change: ChangeOptions


class RemoveOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge remove``."""

    packages: Annotated[tuple[str, ...], Argument(metavar="PACKAGE...")]
    change: ChangeOptions


def run_change(command: str, options: ChangeOptions, request: LockRequest, edit: Callable[[str], Edit]) -> None:
    """Change both files of ``request``, and report the changes; ``edit`` receives the text of the environment file."""
    from envforge.lock.locking import change

    warn_of_incomplete_environment()
    with show_progress() as show:
        edited, report = change(request, edit, show, dry_run=options.dry_run)
    _report(command, options, request, edited, report)


def _report(command: str, options: ChangeOptions, request: LockRequest, edited: Edit, report: LockReport) -> None:
    environment = request.environment
    warnings = report.warnings
    if not options.dry_run:
        warnings = (*warnings, *stale_warnings(environment), *stale_pylock(request))
    result = {
        "environment": environment,
        "dry_run": options.dry_run,
        "added": edited.added,
        "removed": edited.removed,
        "lock": {**report_json(report), "warnings": warnings},
    }
    lines = [f"  - {text}" for text in edited.removed] + [f"  + {text}" for text in edited.added]
    changes = "would change:" if options.dry_run else "changed:"
    text = [f"{environment} {changes if lines else 'already lists these packages'}", *lines]
    text.append(report_words(report, dry_run=options.dry_run))
    text += ["dry run: nothing was written"] if options.dry_run else []
    print_result(command, result, "\n".join(text), as_json=options.as_json)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


@click.command("add")
@takes(AddOptions)
def add(options: AddOptions) -> None:
    """Add packages to environment.yml, and update the lockfile in one transaction.

    PACKAGE is a conda package such as "scipy" or "numpy >=2", or, with --pip, a requirement such as "wandb>=0.19". If
    environment.yml already lists the package, its version constraint is replaced. Comments and order are preserved, and
    locked versions are kept if possible. If the lock fails, neither file changes.
    """
    from envforge.lock import edit

    new = edit.parse_packages(options.packages, "pip" if options.is_pip else "conda")
    request = options.change.request()
    run_change("add", options.change, request, lambda text: edit.add(text, new, request))


@click.command("remove")
@takes(RemoveOptions)
def remove(options: RemoveOptions) -> None:
    """Remove packages from environment.yml, and update the lockfile in one transaction.

    PACKAGE is the name of a conda package or of a wheel under `pip:`. Dependencies that no other package needs are
    removed from the lockfile; all other versions are kept. If the lock fails, neither file changes.
    """
    from envforge.lock import edit

    request = options.change.request()
    run_change("remove", options.change, request, lambda text: edit.remove(text, options.packages, request))
