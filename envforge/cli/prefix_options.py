"""Add ``--prefix`` and ``--name``, which select the environment."""

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
    """Add ``--prefix`` and ``--name``, whose values ``meant`` and ``usable`` accept."""
    name = click.option("--name", help="Use the environment installed under this name.")
    prefix = click.option(
        "--prefix",
        type=click.Path(path_type=Path, file_okay=False),
        help="Use the environment in this directory.  [default: .conda of the project]",
    )
    return prefix(name(command))


def meant(prefix: Path | None, name: str | None) -> Meant:
    """Return the environment that the options select; it may be missing or incomplete."""
    from envforge.daily.prefix import meant_prefix

    return meant_prefix(prefix, name, Path.cwd())


def usable(prefix: Path | None, name: str | None) -> Meant:
    """Return the environment that the options select; raise ``EnvforgeError`` if it is missing or incomplete.

    An incomplete change of environment.yml doesn't affect the environment, so it is only a warning.
    """
    from envforge.cli.unfinished import tell_change_of
    from envforge.daily.unfinished import check_usable

    environment = meant(prefix, name)
    check_usable(environment)
    tell_change_of(environment.prefix)
    return environment
