"""``envforge add``: add packages to environment.yml and its lockfile."""

from __future__ import annotations

import click

from envforge.cli.change_options import ChangeOptions, change_options, run_change
from envforge.cli.options import json_option


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
    from envforge import environment_file

    chosen = ChangeOptions(**options)  # type: ignore[arg-type] # click gives each field its type
    wanted = environment_file.parse_wanted(packages, "pip" if is_pip else "conda")
    run_change("add", chosen, lambda text, where: environment_file.add(text, wanted, where))
