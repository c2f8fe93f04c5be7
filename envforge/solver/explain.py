"""Explain why there is no solution: packages that no channel has, with the available versions, or rattler's reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from rattler import Gateway, MatchSpec, RepoDataRecord
from rattler.exceptions import SolverError

from envforge.errors import EnvforgeError, Hint
from envforge.lock.mapping import NameMapping
from envforge.mirrors import Mirrors
from envforge.nearest import nearest
from envforge.solver.answers import PackagesNotFoundError
from envforge.solver.channels import ALIAS, Naming, hide
from envforge.solver.repodata import cache, in_addresses, read
from envforge.solver.request import Request

_SHOWN = 5
_ALIKE = 0.75


async def explained(error: SolverError, request: Request, folder: Path) -> EnvforgeError:
    """Return the error to report. It names every spec without a match; rattler names only the first."""
    missing = await _missing(request, folder)
    if not missing:
        reason = in_addresses(str(error), request.channels).strip()
        facts = _facts(reason, request)
        hint = "if your machines have newer versions, state them in `virtual-packages.yml`" if facts else ""
        return EnvforgeError(f"{reason}{facts}", hint=hint, code="unsatisfiable")
    names = "".join(f"\n  - {hide(text)}{note}" for text, _, note in missing)
    searched = "".join(f"\n  - {hide(channel.address)}" for channel in request.channels)
    unknown = tuple(dict.fromkeys(name for _, name, note in missing if not note))
    return PackagesNotFoundError(
        f"these packages are not available for {request.naming.platform}:{names}\n"
        f"channels searched:{searched}{_facts(names, request)}",
        hint=[
            *await _suggestions(unknown, request, folder),
            *([Hint("change the version constraint to one that matches")] if len(unknown) < len(missing) else []),
        ],
        unknown=unknown,
    )


async def _suggestions(unknown: tuple[str, ...], request: Request, folder: Path) -> list[Hint]:
    """Return a "did you mean" for each unknown name that resembles a name in the channels."""
    if not unknown:
        return []

    known = set(await read(request.channels, folder, _names_of(request)))
    found = [(name, suggested(name, known)) for name in unknown]
    return [
        Hint(f"did you mean `{near}`?" if len(unknown) == 1 else f"did you mean `{near}` instead of `{name}`?")
        for name, near in found
        if near is not None
    ]


def known_names(
    words: Iterable[str], platform: str, mirrors: Mirrors, environment: Mapping[str, str]
) -> frozenset[str]:
    """Return the names of all packages in the channels ``words``; empty if the channels can't be read."""
    naming = Naming(mirrors=mirrors, platform=platform, alias=environment.get("CONDA_CHANNEL_ALIAS", ALIAS).rstrip("/"))
    try:
        channels = naming.channels(word for word in words if word != "nodefaults")
        request = Request(specs=(), channels=channels, naming=naming, virtual=(), environment=environment)
        with cache(channels, environment) as folder:
            return frozenset(asyncio.run(read(channels, folder, _names_of(request))))
    except EnvforgeError:
        return frozenset()


def _names_of(request: Request) -> Callable[[Gateway], Awaitable[list[str]]]:
    async def ask(gateway: Gateway) -> list[str]:
        return [name.normalized for name in await gateway.names(request.sources(), request.subdirs())]

    return ask


def suggested(name: str, known: set[str]) -> str | None:
    """Return the conda name that ``name`` probably means: its name in the built-in mapping, or else the nearest."""
    mapped = NameMapping.bundled().to_conda(name)
    return mapped if mapped != name and mapped in known else nearest(name, known, alike=_ALIKE)


async def _missing(request: Request, folder: Path) -> list[tuple[str, str, str]]:
    """Return each requested spec that no package matches: its text, its name, and the versions available."""
    virtual = {package.name.normalized for package in request.virtual_packages()}
    wanted = [(text, request.match_spec(text)) for text in request.specs]
    wanted = [(text, spec) for text, spec in wanted if spec.name.normalized not in virtual]

    async def ask(gateway: Gateway) -> list[RepoDataRecord]:
        names = [spec.name.normalized for _, spec in wanted]
        found = await gateway.query(request.sources(), request.subdirs(), names, recursive=False)
        return [record for records in found for record in records]

    records = await read(request.channels, folder, ask)
    return [
        (text, spec.name.normalized, _instead(spec, records))
        for text, spec in wanted
        if not any(spec.matches(record) for record in records)
    ]


def _instead(spec: MatchSpec, records: list[RepoDataRecord]) -> str:
    versions = {record.version for record in records if record.name.normalized == spec.name.normalized}
    newest = [str(version) for version in sorted(versions, reverse=True)]
    if not newest:
        return ""
    return f" (available: {', '.join(newest[:_SHOWN])}{', …' if len(newest) > _SHOWN else ''})"


def _facts(text: str, request: Request) -> str:
    """Return the virtual packages of the solve if the text names one."""
    if "__" not in text:
        return ""
    stated = ", ".join(sorted(str(package).replace("=", " ", 1) for package in request.virtual_packages()))
    return f"\nvirtual packages of {request.naming.platform}: {stated or 'none'}"
