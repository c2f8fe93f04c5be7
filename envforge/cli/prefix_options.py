"""``--prefix`` and ``--name``: which environment a command of daily use means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envforge.daily.prefix import Meant

Command = Callable[..., Any]
DEFAULT_PREFIX = Path(".conda")


def prefix_options(command: Command) -> Command:
    """Give a command ``--prefix`` and ``--name``; give both values to ``meant``."""
    name = click.option("--name", help="The environment that was installed under this name.")
    prefix = click.option(
        "--prefix",
        type=click.Path(path_type=Path, file_okay=False),
        help="The environment in this folder.  [default: .conda of the project, from here upwards]",
    )
    return prefix(name(command))


def meant(prefix: Path | None, name: str | None) -> Meant:
    """The environment that the options mean, seen from the current folder; it may be missing or unfinished."""
    from envforge.daily.prefix import meant_prefix

    return meant_prefix(prefix, name, Path.cwd())


def usable(prefix: Path | None, name: str | None) -> Meant:
    """The environment that the options mean; raises where it is missing or unfinished.

    A half-done change of environment.yml does not touch the environment, and is only told of.
    """
    from envforge.cli.unfinished import tell_change_of
    from envforge.daily.unfinished import check_usable

    environment = meant(prefix, name)
    check_usable(environment)
    tell_change_of(environment.prefix)
    return environment
