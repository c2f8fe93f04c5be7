"""Options that select the files of a project: ``--file``, ``--lockfile``, ``LOCK``, and ``--variant``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import platform_here
from envforge.cli.unfinished import refuse_half_change, tell_environment

if TYPE_CHECKING:
    from envforge.cli.options import Decorator

DEFAULT_LOCK = Path("conda-lock.yml")


def file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--file`` and ``--lockfile``; pass their values to ``environment_of`` and ``lockfile_of``."""
    lockfile = click.option(
        "--lockfile",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Use this lockfile.  [default: conda-lock.yml next to FILE]",
    )
    file = click.option(
        "-f",
        "--file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Use this environment file.  [default: environment.yml of the project]",
    )
    return file(lockfile(command))


def environment_of(file: Path | None) -> Path:
    """Return the file of ``--file``, or else environment.yml of the project around the current directory."""
    from envforge.lock.project import find_environment

    return file or find_environment(Path())


def variant_option(what: str) -> Decorator:
    """``--variant NAME``; ``what`` begins its line in the help. Give the value to ``stated_lock``."""
    return click.option("--variant", metavar="NAME", help=f"{what} lockfiles/NAME/conda-lock.yml.")


def stated_lock(lock: Path | None, variant: str | None) -> Path | None:
    """The lock that LOCK or ``--variant`` name; ``None`` where neither is given."""
    from envforge.errors import RequestError
    from envforge.install.variants import variant_lock

    if lock is not None and variant is not None:
        raise RequestError("LOCK and `--variant` can't be combined", hint="omit one of them", code="two-locks")
    return variant_lock(Path(), variant, platform_here()) if variant is not None else lock


def need_lock(lock: Path | None, variant: str | None, what: str) -> Path:
    """The lock that LOCK or ``--variant`` name, else ``conda-lock.yml`` here; variants are not guessed.

    Raises where a change of it is half done, and tells of an unfinished environment around here.
    """
    from envforge.errors import RequestError
    from envforge.install.variant_files import list_variants

    stated = stated_lock(lock, variant)
    names = () if stated is not None or DEFAULT_LOCK.exists() else list_variants(Path())
    if names:
        raise RequestError(
            f"`{DEFAULT_LOCK}` does not exist, but the project has variants: {', '.join(names)}",
            hint="to select a variant",
            command=" ".join((what, "--variant", names[0])),
            code="which-variant",
        )
    chosen = stated or DEFAULT_LOCK
    refuse_half_change(chosen)
    tell_environment()
    return chosen
