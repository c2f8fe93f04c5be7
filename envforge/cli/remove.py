"""``envforge remove``: remove packages from environment.yml and its lockfile."""

from __future__ import annotations

import click

from envforge.cli.change_options import ChangeOptions, change_options, run_change
from envforge.cli.options import json_option


@click.command("remove")
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...")
@change_options
@json_option()
def remove(*, packages: tuple[str, ...], **options: object) -> None:
    """Remove packages from environment.yml, and update the lockfile in one transaction.

    PACKAGE is the name of a conda package or of a wheel under `pip:`. Dependencies that no other package needs are
    removed from the lockfile; all other versions are kept. If the lock fails, neither file changes.
    """
    from envforge import environment_file

    chosen = ChangeOptions(**options)  # type: ignore[arg-type] # click gives each field its type
    run_change("remove", chosen, lambda text, where: environment_file.remove(text, packages, where))
