"""The options that ``new`` and ``update`` share: what the template is told, and where the lock comes from."""

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
    """What the user wants of the template, as typed."""

    var: tuple[str, ...]
    with_groups: tuple[str, ...]
    without_groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockOptions:
    """How the user wants the lock, as typed."""

    no_lock: bool
    fresh: bool
    conda_exe: Path | None
    catalogue: str | None
    mirrors: tuple[str, ...]

    def way(self, folder: Path, *, dry_run: bool = False) -> LockWay:
        """How to come to a lock; ``folder`` is the one that a relative catalogue and the settings belong to."""
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
    """``--var --with --without``; the command receives ``template_options``."""
    options = (
        click.option(
            "--var",
            multiple=True,
            metavar="KEY=VALUE",
            help="Answer one question of the template; may be given several times.",
        ),
        click.option(
            "--with",
            "with_groups",
            multiple=True,
            metavar="NAME,…",
            help="Add these groups of files, or `all`: see envforge templates show TEMPLATE.",
        ),
        click.option(
            "--without",
            "without_groups",
            multiple=True,
            metavar="NAME,…",
            help="Leave these groups of files out, or `all` that are not named by --with.",
        ),
    )
    return collected(options, TemplateOptions, "template_options")


def requirement_option() -> Decorator:
    """Add ``--envforge REQUIREMENT`` as ``envforge``, whose value ``stated_requirement`` accepts."""
    return click.option(
        "--envforge",
        metavar="REQUIREMENT",
        help="Version, git URL, or wheel of envforge that generated files install.  [env var: ENVFORGE_REQUIREMENT]",
    )


def stated_requirement(option: str | None) -> str:
    """Return the requirement of the option, the variable, or the user's settings; empty if none states one."""
    from envforge.distribution import fleet_requirement, pinned_requirement

    requirement = fleet_requirement(option, os.environ)
    return "" if option is None and requirement == pinned_requirement() else requirement


def lock_options() -> Decorator:
    """``--no-lock --fresh --conda-exe --catalogue --mirror``; the command receives ``lock_options``."""
    options = (
        click.option("--no-lock", is_flag=True, help="Leave the lock to `envforge lock`."),
        click.option("--fresh", is_flag=True, help="Solve the lock now, also where the catalogue has one."),
        click.option(
            "--conda-exe",
            type=click.Path(path_type=Path),
            help="Solve with this conda, mamba or micromamba in place of the embedded solver.",
        ),
        click.option(
            "--catalogue",
            metavar="ADDRESS",
            envvar="ENVFORGE_CATALOGUE",
            show_envvar=True,
            help="The catalogue of your team, asked before the one that comes with envforge; see envforge lockfiles.",
        ),
        mirror_option(),
    )
    return collected(options, LockOptions, "lock_options")
