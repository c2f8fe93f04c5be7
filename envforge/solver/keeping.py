"""Solve again and keep locked packages as far as the specs allow.

The specs are always met. The first attempt fixes all locked packages, the second prefers them and fixes Python's minor
version, and the last one only prefers them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Protocol

from rattler import Gateway, MatchSpec, RepoDataRecord
from rattler.exceptions import SolverError

from envforge.solver.request import Request
from envforge.solver.wishes import Kept


class Solve(Protocol):
    """One solve of the request with preferred packages and additional version constraints."""

    async def __call__(self, locked: Sequence[RepoDataRecord], constraints: Sequence[str]) -> list[RepoDataRecord]:
        """Return the packages; raise ``SolverError`` if there is no solution."""


async def solve_keeping(
    request: Request, specs: Sequence[MatchSpec], gateway: Gateway, solve: Solve
) -> list[RepoDataRecord]:
    """Give packages to upgrade the version that a new lockfile would have, and keep the others if possible."""
    preferred = await _preferred(request, specs, gateway)
    if not preferred:
        return await solve([], [])
    renewed = await _renewed(request, preferred, solve)
    for constraints in _attempts(preferred, renewed):
        with contextlib.suppress(SolverError):
            return await solve(preferred, constraints)
    return await solve(preferred, renewed)


async def _renewed(request: Request, preferred: Sequence[RepoDataRecord], solve: Solve) -> list[str]:
    names = set(request.wishes.renew)
    if not names:
        return []
    try:  # a newer Python would change the versions of nearly all packages, not only the named ones
        fresh = await solve([], _python(preferred))
    except SolverError:
        fresh = await solve([], [])
    return [f"{r.name.normalized} =={r.version}" for r in fresh if r.name.normalized in names]


def _attempts(preferred: Sequence[RepoDataRecord], renewed: list[str]) -> Iterator[list[str]]:
    yield [*renewed, *(f"{r.name.normalized} =={r.version} {r.build}" for r in preferred)]
    if _python(preferred):
        yield [*renewed, *_python(preferred)]


def _python(records: Sequence[RepoDataRecord]) -> list[str]:
    # another minor version of Python changes nearly all packages, so it is the last constraint to be dropped
    minors = [".".join(str(record.version).split(".")[:2]) for record in records if record.name.normalized == "python"]
    return [f"python {minor}.*" for minor in minors]


async def _preferred(request: Request, specs: Sequence[MatchSpec], gateway: Gateway) -> list[RepoDataRecord]:
    """Return the current repodata records of kept packages, except those that the specs or the cutoff exclude."""
    kept = {one.name: one for one in request.wishes.keep if one.name not in request.wishes.renew}
    if not kept:
        return []
    found = await gateway.query(request.sources(), request.subdirs(), list(kept), recursive=False)
    by_name = {
        record.name.normalized: record
        for records in found
        for record in records
        if _is_same(record, kept[record.name.normalized]) and not _is_newer(record, request.wishes.exclude_newer)
    }
    wanted: dict[str, list[MatchSpec]] = {}
    for spec in specs:
        wanted.setdefault(spec.name.normalized, []).append(spec)
    return [r for name, r in by_name.items() if all(spec.matches(r) for spec in wanted.get(name, ()))]


def _is_same(record: RepoDataRecord, kept: Kept) -> bool:
    if record.file_name != kept.file_name:
        return False
    if kept.sha256 and record.sha256:
        return record.sha256.hex() == kept.sha256
    return not (kept.md5 and record.md5) or record.md5.hex() == kept.md5


def _is_newer(record: RepoDataRecord, moment: dt.datetime | None) -> bool:
    # a record without a date is allowed, as in `Cutoff.excludes`
    made = record.indexed_timestamp or record.timestamp
    return moment is not None and made is not None and made > moment
