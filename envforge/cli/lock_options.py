"""Options that select the files of a project: ``--file``, ``--lockfile``, ``LOCK``, and ``--variant``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import platform_here
from envforge.cli.unfinished import refuse_half_change, tell_environment

if TYPE_CHECKING:
    from envforge.cli.options import Decorator


def default_lock() -> Path:
    """Return ``conda-lock.yml`` of the project around the current directory; it may not exist."""
    from envforge.daily.prefix import project_here
    from envforge.install.variant_files import LOCK_NAME

    return project_here() / LOCK_NAME


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
    """Add ``--variant NAME``, whose value ``stated_lock`` accepts; ``what`` is the verb of its help."""
    return click.option("--variant", metavar="NAME", help=f"{what} lockfiles/NAME/conda-lock.yml.")


def stated_lock(lock: Path | None, variant: str | None) -> Path | None:
    """Return the lockfile that LOCK or ``--variant`` selects; None if neither is given."""
    from envforge.daily.prefix import project_here
    from envforge.errors import RequestError
    from envforge.install.variants import variant_lock

    if lock is not None and variant is not None:
        raise RequestError(
            f"the lockfile `{lock}` and `--variant {variant}` can't be used together",
            hint="to select one lockfile, omit the path or `--variant`",
            code="two-locks",
        )
    return variant_lock(project_here(), variant, platform_here()) if variant is not None else lock


def need_lock(lock: Path | None, variant: str | None, what: str) -> Path:
    """Return the lockfile that LOCK or ``--variant`` selects, else the project's ``conda-lock.yml``.

    ``what`` is the command that the hint repeats with a variant. Raises ``EnvforgeError`` if a change of the lockfile
    is incomplete, and prints a warning if the environment of the project is.
    """
    from envforge.errors import RequestError
    from envforge.install.variant_files import list_variants

    chosen = stated_lock(lock, variant) or default_lock()
    names = () if chosen.exists() or lock is not None else list_variants(chosen.parent)
    if names:
        raise RequestError(
            f"`{chosen}` does not exist, but the project has lockfiles of variants: {', '.join(names)}",
            hint="to select one",
            command=" ".join([what, "--variant", shlex.quote(names[0])]),
            code="which-variant",
        )
    refuse_half_change(chosen)
    tell_environment()
    return chosen
