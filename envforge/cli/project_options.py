"""Define the options that ``new`` and ``update`` share: answers, groups, and the source of the lock."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import Decorator, chosen_mirrors, collected, mirror_option

if TYPE_CHECKING:
    from envforge.project.locking import LockWay


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateOptions:
    """The answers and groups, as typed."""

    var: tuple[str, ...]
    with_groups: tuple[str, ...]
    without_groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockOptions:
    """The source of the lock, as typed."""

    no_lock: bool
    fresh: bool
    conda_exe: Path | None
    catalogue: str | None
    mirrors: tuple[str, ...]

    def way(self, folder: Path, *, dry_run: bool = False) -> LockWay:
        """Return how to obtain a lock; a relative catalogue and the project's settings belong to ``folder``."""
        from envforge.project.locking import LockWay

        mirrors = chosen_mirrors(self.mirrors)
        if self.no_lock:
            return LockWay(wanted=False)
        from envforge.sharing.settings import chosen_catalogue

        return LockWay(
            fresh=self.fresh,
            dry_run=dry_run,
            conda_exe=self.conda_exe,
            mirrors=mirrors,
            team=chosen_catalogue(self.catalogue, folder, os.environ),
        )


def template_options() -> Decorator:
    """Add ``--var --with --without``, which the command receives as ``template_options``."""
    options = (
        click.option(
            "--var",
            multiple=True,
            metavar="KEY=VALUE",
            help="Answer one question of the template. May be provided more than once.",
        ),
        click.option(
            "--with",
            "with_groups",
            multiple=True,
            metavar="NAME,…",
            help="Add these groups of files, or `all`; `envforge templates show TEMPLATE` lists them.",
        ),
        click.option(
            "--without",
            "without_groups",
            multiple=True,
            metavar="NAME,…",
            help="Leave these groups of files out, or `all` except those of --with.",
        ),
    )
    return collected(options, TemplateOptions, "template_options")


def requirement_option() -> Decorator:
    """Add ``--envforge REQUIREMENT`` as ``envforge``, the option of ``distribution.stated_requirement``."""
    return click.option(
        "--envforge",
        metavar="REQUIREMENT",
        help="Version, git URL, or wheel of envforge that generated files install.  [env var: ENVFORGE_REQUIREMENT]",
    )


def lock_options() -> Decorator:
    """Add ``--no-lock --fresh --conda-exe --catalogue --mirror``, which the command receives as ``lock_options``."""
    options = (
        click.option("--no-lock", is_flag=True, help="Don't create a lockfile; `envforge lock` creates it later."),
        click.option("--fresh", is_flag=True, help="Solve again, even if the catalogue has a lockfile."),
        click.option(
            "--conda-exe",
            type=click.Path(path_type=Path),
            help="Solve with this conda, mamba, or micromamba instead of the built-in solver.",
        ),
        click.option(
            "--catalogue",
            metavar="URL",
            envvar="ENVFORGE_CATALOGUE",
            show_envvar=True,
            help="Search the catalogue of your team before the built-in one; see `envforge lockfiles`.",
        ),
        mirror_option(),
    )
    return collected(options, LockOptions, "lock_options")
