"""Stop a command, or print a warning, if an earlier command was interrupted (docs/decisions/0121)."""

from __future__ import annotations

from pathlib import Path

import click


def refuse_half_change(lockfile: Path) -> None:
    """Raise ``EnvforgeError`` if a change of this lockfile is incomplete; either state could be the intended one."""
    from envforge.daily.unfinished import unfinished_change

    found = unfinished_change(lockfile)
    if found is not None:
        raise found.error()


def tell_half_change(lockfile: Path) -> None:
    """Print a warning if a change of this lockfile is incomplete."""
    from envforge.daily.unfinished import unfinished_change

    _tell(unfinished_change(lockfile))


def tell_change_of(prefix: Path) -> None:
    """Print a warning if a change of the lockfile that an environment was created from is incomplete."""
    from envforge.daily.unfinished import unfinished_change_of

    _tell(unfinished_change_of(prefix))


def tell_environment() -> None:
    """Print a warning if the environment of the project around the current directory is incomplete."""
    from envforge.daily.unfinished import unfinished_around
    from envforge.errors import EnvforgeError

    try:
        _tell(unfinished_around(Path.cwd()))
    except EnvforgeError as error:  # the current command doesn't use this environment
        _tell(f"{error.message}; {error.hint}")


def _tell(found: object) -> None:
    if found is not None:
        click.echo(f"warning: {found}", err=True)
