"""Obtain the lock of a new project, and list the builds to offer if a solve is impossible."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from envforge.cli.lock_progress import show_progress
from envforge.cli.options import hints_inside, repeated_command
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.project.locking import ProjectLock, find_lock, obtain_lock
from envforge.project.offline import locked_projects, unreachable_host

if TYPE_CHECKING:
    from envforge.cli.new import NewRequest
    from envforge.project import Project
    from envforge.project.offline import BuildQuery
    from envforge.selection import Selection

_MOST_OFFERED = 2


def locked(request: NewRequest, project: Project, query: BuildQuery) -> tuple[Project, ProjectLock, tuple[str, ...]]:
    """Return the project with its lock; without a network, on the best build whose lockfile is in the catalogue."""
    way = request.lock.way(Path(), dry_run=request.dry_run)
    with show_progress() as show:
        found = find_lock(project.texts, way, show) if way.wanted else None
        if found is not None:
            return project, found, ()
        if way.wanted and not way.fresh and way.conda_exe is None:
            host = unreachable_host(project, way.mirrors)
            if host is not None:
                other = next(locked_projects(project, query), None)
                if other is None:
                    raise _needs_network(request, project, query, host)
                lock = obtain_lock(other.texts, way, show)
                return other, lock, (_note_instead(request, project, other, host),)
        try:
            return project, obtain_lock(project.texts, way, show), ()
        except EnvforgeError as error:
            # the project isn't written, so hints of the lock apply once it was created without a lockfile
            target = Path(request.directory or project.template.name)
            inside = hints_inside(target, error.hints, "then, in the project, ")
            error.hints = (*_ways_without_solve(request, project, query), *inside)
            raise


def _build_of(selection: Selection) -> str:
    build = selection.build
    return f"torch {build.pin(build.torch)} with Python {selection.python} on {build.platform}"


def _torch_of(project: Project) -> str:
    build = project.selections[0].build
    return f"torch {build.pin(build.torch)}"


def _note_instead(request: NewRequest, wanted: Project, other: Project, host: str) -> str:
    """Return the line that names the build that was not selected, and how to switch to it."""
    build = wanted.selections[0].build
    directory = shlex.quote(request.directory or wanted.template.name)
    switch = f"envforge update --directory {directory} --cuda {build.tag.cuda or 'cpu'} --torch {build.torch}"
    return (
        f"{host} can't be reached, so the project uses {_torch_of(other)}, whose lockfile is in the catalogue, instead "
        f"of {_torch_of(wanted)}; to switch when you are online, run `{switch}`"
    )


def _needs_network(request: NewRequest, project: Project, query: BuildQuery, host: str) -> EnvforgeError:
    builds = [_build_of(selection) for selection in project.selections]
    needs = builds[0] if len(builds) == 1 else f"the combination of {' and '.join(builds)}"
    packages = [spec for group in project.template.groups if group.name in project.groups for spec in group.conda]
    needs += f" and {', '.join(packages)}" if packages else ""
    return OutsideError(
        f"the catalogue has no lockfile for {needs}, and `{host}`, which a solve requires, can't be reached",
        hint=_ways_without_solve(request, project, query),
        code="no-network",
    )


def _ways_without_solve(request: NewRequest, project: Project, query: BuildQuery) -> tuple[Hint, ...]:
    """Return the ways to a lockfile of the catalogue, as commands; then ``--no-lock``."""
    without = repeated_command({"no_lock": True, "fresh": None, "install": None})
    return (
        *ways_in_catalogue(project, query, python=request.selection.python is not None),
        *_ways_for_one_platform(project, query),
        Hint("to create the project without a lockfile", without),
    )


def ways_in_catalogue(project: Project, query: BuildQuery, *, python: bool) -> tuple[Hint, ...]:
    """Return the builds that fit the machine and have a lockfile in the catalogue, as variations of the command line.

    ``python``: the command line has ``--python``.
    """
    ways = []
    relaxed = (query.without("torch", "python"), query.without("cuda", "torch", "python"))
    others = {each.texts.sha256: each for wider in relaxed for each in locked_projects(project, wider)}
    for other in [*others.values()][:_MOST_OFFERED]:
        selection = other.selections[0]
        command = repeated_command(
            {
                "cuda": str(selection.build.tag.cuda or "cpu"),
                "torch": str(selection.build.torch),
                "python": str(selection.python) if python else None,
                "fresh": None,
            }
        )
        ways.append(Hint(f"to use {_torch_of(other)}, whose lockfile is in the catalogue", command))
    return tuple(ways)


def _ways_for_one_platform(project: Project, query: BuildQuery) -> Iterator[Hint]:
    """Yield the platforms whose lockfile is in the catalogue, if the catalogue lacks their combination."""
    for platform in query.platforms if len(query.platforms) > 1 else ():
        if next(locked_projects(project, replace(query, platforms=(platform,))), None) is not None:
            command = repeated_command({"platforms": platform, "fresh": None})
            yield Hint(f"to create it only for {platform}, whose lockfile is in the catalogue", command)
