"""Solve a ``Request`` with rattler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rattler import Gateway, MatchSpec, PackageRecord, RepoDataRecord
from rattler import solve as rattler_solve
from rattler.exceptions import SolverError

from envforge.errors import RequestError
from envforge.solver import repodata
from envforge.solver.explain import explained
from envforge.solver.keeping import solve_keeping
from envforge.solver.records import Record
from envforge.solver.request import Request


def solve(request: Request) -> tuple[Record, ...]:
    """Return the packages of the environment, each after its dependencies.

    Raises ``RequestError`` for an invalid spec, ``EnvforgeError`` (``packages-not-found``, ``unsatisfiable``) with
    rattler's explanation if there is no solution, and ``OutsideError`` for unreadable repodata.
    """
    request = request.with_named_channels()
    if not request.channels:
        raise RequestError(
            "no channel is specified, and there is no default channel",
            hint="add `channels: [conda-forge]` to `environment.yml`",
            code="no-channel",
        )
    with repodata.cache(request.channels, request.environment) as folder:
        found = asyncio.run(_solve(request, folder))
    by_name = sorted(found, key=lambda record: record.name.normalized)
    ordered = PackageRecord.sort_topologically(by_name)  # type: ignore[arg-type] # it takes any kind of record
    return tuple(request.at_home(Record.from_rattler(record)) for record in ordered)


async def _solve(request: Request, folder: Path) -> list[RepoDataRecord]:
    specs = [request.match_spec(text) for text in request.specs]
    named = {spec.name.normalized for spec in specs}
    kept = [request.at_source(record) for record in request.installed if record.name not in named]

    async def ask(gateway: Gateway) -> list[RepoDataRecord]:
        async def solve_once(locked: Sequence[RepoDataRecord], constraints: Sequence[str]) -> list[RepoDataRecord]:
            return await rattler_solve(
                request.sources(),
                [*specs, *(MatchSpec(record.name) for record in kept)],
                gateway=gateway,
                platforms=request.subdirs(),
                locked_packages=locked,
                virtual_packages=request.virtual_packages(),
                channel_priority=request.channel_priority(),
                constraints=constraints,
                exclude_newer=request.wishes.exclude_newer,
                timestamp_policy="allow-missing",
            )

        if request.installed:  # `install` and `update` keep an environment; only `create` follows the preferences
            return await solve_once(await _locked(kept, request, gateway), _python(kept))
        return await solve_keeping(request, specs, gateway, solve_once)

    try:
        return await repodata.read(request.channels, folder, ask)
    except SolverError as error:
        raise await explained(error, request, folder) from error


async def _locked(kept: list[Record], request: Request, gateway: Gateway) -> list[RepoDataRecord]:
    # a lockfile doesn't contain the builds of dependencies, so read complete records from the channels
    if not kept:
        return []
    names = [record.name for record in kept]
    found = await gateway.query(request.sources(), request.subdirs(), names, recursive=False)
    by_url = {record.url: record for records in found for record in records}
    return [by_url.get(record.url) or record.to_rattler() for record in kept]


def _python(kept: list[Record]) -> list[str]:
    # as conda does: an installed Python keeps its minor version unless it is requested
    minors = [".".join(record.version.split(".")[:2]) for record in kept if record.name == "python"]
    return [f"python {minor}.*" for minor in minors]
