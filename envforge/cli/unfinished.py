"""What commands say of half-done work: some stop, the others warn on stderr and go on (docs/decisions/0121)."""

from __future__ import annotations

from pathlib import Path

import click


def refuse_half_change(lockfile: Path) -> None:
    """Raise where a change of this lock is half done: nobody could say which of two states is meant."""
    from envforge.daily.unfinished import unfinished_change

    found = unfinished_change(lockfile)
    if found is not None:
        raise found.error()


def tell_half_change(lockfile: Path) -> None:
    """Warn where a change of this lock is half done."""
    from envforge.daily.unfinished import unfinished_change

    _tell(unfinished_change(lockfile))


def tell_change_of(prefix: Path) -> None:
    """Warn where a change of the lock that an environment was made from is half done."""
    from envforge.daily.unfinished import unfinished_change_of

    _tell(unfinished_change_of(prefix))


def tell_environment() -> None:
    """Warn where the environment of the project around here is unfinished."""
    from envforge.daily.unfinished import unfinished_around

    _tell(unfinished_around(Path.cwd()))


def _tell(found: object) -> None:
    if found is not None:
        click.echo(f"warning: {found}", err=True)
