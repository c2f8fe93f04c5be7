"""Define the options of `new`, `update`, and `explain` that select a build, a template, and a lockfile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Struct

from envforge.cli.options import (
    CondaExeOption,
    MirrorsOption,
    Option,
    catalogue_option,
    chosen_mirrors,
    torch_index_option,
)

if TYPE_CHECKING:
    from envforge.project.create import LockWay
    from envforge.pytorch.matrix import Matrix, Request

RequirementOption = Annotated[
    str | None,
    Option(
        "Version, git URL, or wheel of envforge that generated files install.  [env var: ENVFORGE_REQUIREMENT]",
        metavar="REQUIREMENT",
    ),
]


class SelectionOptions(Struct, frozen=True, kw_only=True):
    """The build to select; ``None`` and ``auto`` leave the choice to ``select``."""

    cuda: Annotated[
        str, Option("CUDA version of the PyTorch build: auto, cpu, or a version such as 11.8 or cu118.", metavar="CUDA")
    ] = "auto"
    torch: Annotated[
        str | None, Option("PyTorch release, such as 2.7.1, or 2.7 for the newest 2.7.", metavar="VERSION")
    ] = None
    python: Annotated[str | None, Option("Python version of the environment, such as 3.12.", metavar="VERSION")] = None
    platforms: Annotated[
        tuple[str, ...],
        Option(
            "Plan for this platform, such as linux-64. May be provided more than once.  [default: the machine's]",
            "-p",
            "--platform",
            metavar="SUBDIR",
        ),
    ] = ()
    prefer: Annotated[
        Literal["newest-torch", "direct", "widest"],
        Option("Rank builds by newest torch, best driver support, or widest range of machines."),
    ] = "newest-torch"
    torch_index: Annotated[str | None, torch_index_option("Use")] = None

    def to_request(self, matrix: Matrix) -> Request:
        """Return the request without its platform; raise ``RequestError`` if a value doesn't exist."""
        from envforge.pytorch.select import read_request

        return read_request(
            matrix,
            cuda=self.cuda,
            torch=self.torch,
            python=self.python,
            prefer=self.prefer,
            torch_index=self.torch_index,
        )

    def known_platforms(self, matrix: Matrix) -> tuple[str, ...]:
        """Return the requested platforms, each once; raise ``RequestError`` if one has no builds."""
        from envforge.pytorch.select import known_platforms

        return known_platforms(matrix, self.platforms)


class TemplateOptions(Struct, frozen=True, kw_only=True):
    """The answers and groups, as typed."""

    var: Annotated[
        tuple[str, ...],
        Option("Answer one question of the template. May be provided more than once.", metavar="KEY=VALUE"),
    ] = ()
    with_groups: Annotated[
        tuple[str, ...],
        Option(
            "Add these groups of files, or `all`; `envforge templates show TEMPLATE` lists them.",
            "--with",
            metavar="NAME,…",
        ),
    ] = ()
    without_groups: Annotated[
        tuple[str, ...],
        Option("Leave these groups of files out, or `all` except those of --with.", "--without", metavar="NAME,…"),
    ] = ()


class LockSourceOptions(Struct, frozen=True, kw_only=True):
    """The source of the lock, as typed."""

    no_lock: Annotated[bool, Option("Don't create a lockfile; `envforge lock` creates it later.")] = False
    fresh: Annotated[bool, Option("Solve again, even if the catalogue has a lockfile.")] = False
    conda_exe: CondaExeOption = None
    catalogue: Annotated[
        str | None,
        catalogue_option("Search the catalogue of your team before the built-in one; see `envforge lockfiles`."),
    ] = None
    mirrors: MirrorsOption = ()

    def way(self, folder: Path, *, dry_run: bool = False) -> LockWay:
        """Return how to obtain a lock; a relative catalogue and the project's settings belong to ``folder``."""
        from envforge.project.create import LockWay

        mirrors = chosen_mirrors(self.mirrors)
        if self.no_lock:
            return LockWay(wanted=False)
        from envforge.catalogue.index import chosen_catalogue

        return LockWay(
            fresh=self.fresh,
            dry_run=dry_run,
            conda_exe=self.conda_exe,
            mirrors=mirrors,
            team=chosen_catalogue(self.catalogue, folder, os.environ),
        )
