"""Read the repodata of channels, solve a request with rattler, and explain a failure.

The specs are always met. The first attempt fixes all locked packages, the second prefers them and fixes Python's minor
version, and the last one only prefers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import urlsplit

from platformdirs import user_cache_path
from rattler import Gateway, MatchSpec, PackageRecord, RepoDataRecord, SourceConfig
from rattler import solve as rattler_solve
from rattler.exceptions import CacheDirError, FetchRepoDataError, GatewayError, IoError, SolverError

from envforge.base.files import is_writable
from envforge.base.net import credentials_hints, unreachable_hints
from envforge.base.suggest import nearest
from envforge.base.urls import Mirrors, hide_secrets, without_user
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError
from envforge.lock.names import NameMapping
from envforge.lock.solver import LockedFile, PackagesNotFoundError
from envforge.lock.solver.request import ALIAS, PRIORITIES, Channel, IndexRecord, Naming, SolveRequest

T = TypeVar("T")


# one solve with preferred packages and additional version constraints
SolveFunction = Callable[[Sequence[RepoDataRecord], Sequence[str]], Awaitable[list[RepoDataRecord]]]


async def solve_keeping(
    request: SolveRequest, specs: Sequence[MatchSpec], gateway: Gateway, solve: SolveFunction
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


async def _renewed(request: SolveRequest, preferred: Sequence[RepoDataRecord], solve: SolveFunction) -> list[str]:
    names = set(request.wishes.renew)
    if not names:
        return []
    try:  # a newer Python would change the versions of nearly all packages, not only the named ones
        fresh = await solve([], _keeping_python(preferred))
    except SolverError:
        fresh = await solve([], [])
    return [f"{r.name.normalized} =={r.version}" for r in fresh if r.name.normalized in names]


def _attempts(preferred: Sequence[RepoDataRecord], renewed: list[str]) -> Iterator[list[str]]:
    yield [*renewed, *(f"{r.name.normalized} =={r.version} {r.build}" for r in preferred)]
    if _keeping_python(preferred):
        yield [*renewed, *_keeping_python(preferred)]


def _keeping_python(records: Sequence[RepoDataRecord]) -> list[str]:
    # another minor version of Python changes nearly all packages, so it is the last constraint to be dropped
    return _minor_of_python((record.name.normalized, str(record.version)) for record in records)


def _minor_of_python(versions: Iterable[tuple[str, str]]) -> list[str]:
    return [f"python {'.'.join(version.split('.')[:2])}.*" for name, version in versions if name == "python"]


async def _preferred(request: SolveRequest, specs: Sequence[MatchSpec], gateway: Gateway) -> list[RepoDataRecord]:
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


def _is_same(record: RepoDataRecord, kept: LockedFile) -> bool:
    if record.file_name != kept.file_name:
        return False
    if kept.sha256 and record.sha256:
        return record.sha256.hex() == kept.sha256
    return not (kept.md5 and record.md5) or record.md5.hex() == kept.md5


def _is_newer(record: RepoDataRecord, moment: dt.datetime | None) -> bool:
    # a record without a date is allowed, as in `Cutoff.excludes`
    made = record.indexed_timestamp or record.timestamp
    return moment is not None and made is not None and made > moment


_SHOWN = 5
_ALIKE = 0.75


async def explained(error: SolverError, request: SolveRequest, folder: Path) -> EnvforgeError:
    """Return the error to report. It names every spec without a match; rattler names only the first."""
    missing = await _missing(request, folder)
    if not missing:
        reason = in_addresses(str(error), request.channels).strip()
        facts = _facts(reason, request)
        hint = "if your machines have newer versions, state them in `virtual-packages.yml`" if facts else ""
        return EnvforgeError(f"{reason}{facts}", hint=hint, code="unsatisfiable")
    names = "".join(f"\n  - {hide_secrets(text)}{note}" for text, _, note in missing)
    searched = "".join(f"\n  - {hide_secrets(channel.address)}" for channel in request.channels)
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


async def _suggestions(unknown: tuple[str, ...], request: SolveRequest, folder: Path) -> list[Hint]:
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
        request = SolveRequest(specs=(), channels=channels, naming=naming, virtual=(), environment=environment)
        with cache(channels, environment) as folder:
            return frozenset(asyncio.run(read(channels, folder, _names_of(request))))
    except EnvforgeError:
        return frozenset()


def _names_of(request: SolveRequest) -> Callable[[Gateway], Awaitable[list[str]]]:
    async def ask(gateway: Gateway) -> list[str]:
        return [name.normalized for name in await gateway.names(request.sources(), request.subdirs())]

    return ask


def suggested(name: str, known: set[str]) -> str | None:
    """Return the conda name that ``name`` probably means: its name in the built-in mapping, or else the nearest."""
    mapped = NameMapping.bundled().to_conda(name)
    return mapped if mapped != name and mapped in known else nearest(name, known, alike=_ALIKE)


async def _missing(request: SolveRequest, folder: Path) -> list[tuple[str, str, str]]:
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


def _facts(text: str, request: SolveRequest) -> str:
    """Return the virtual packages of the solve if the text names one."""
    if "__" not in text:
        return ""
    stated = ", ".join(sorted(str(package).replace("=", " ", 1) for package in request.virtual_packages()))
    return f"\nvirtual packages of {request.naming.platform}: {stated or 'none'}"


def solve(request: SolveRequest) -> tuple[IndexRecord, ...]:
    """Return the packages of the environment, each after its dependencies.

    Raises ``RequestError`` for an invalid spec, ``EnvforgeError`` (``packages-not-found``, ``unsatisfiable``) with
    rattler's explanation if there is no solution, and ``OutsideError`` for unreadable channels.
    """
    request = request.with_named_channels()
    if not request.channels:
        raise RequestError(
            "no channel is specified, and there is no default channel",
            hint="add `channels: [conda-forge]` to `environment.yml`",
            code="no-channel",
        )
    with cache(request.channels, request.environment) as folder:
        found = asyncio.run(_solve(request, folder))
    by_name = sorted(found, key=lambda record: record.name.normalized)
    ordered = PackageRecord.sort_topologically(by_name)  # type: ignore[arg-type] # it takes any kind of record
    return tuple(request.at_home(IndexRecord.read(record.to_json(), "the solution")) for record in ordered)


async def _solve(request: SolveRequest, folder: Path) -> list[RepoDataRecord]:
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
                channel_priority=PRIORITIES[request.priority],
                constraints=constraints,
                exclude_newer=request.wishes.exclude_newer,
                timestamp_policy="allow-missing",
            )

        if request.installed:  # `install` and `update` keep an environment; only `create` follows the preferences
            # as conda does: an installed Python keeps its minor version unless it is requested
            constraints = _minor_of_python((record.name, record.version) for record in kept)
            return await solve_once(await _locked(kept, request, gateway), constraints)
        return await solve_keeping(request, specs, gateway, solve_once)

    try:
        return await read(request.channels, folder, ask)
    except SolverError as error:
        raise await explained(error, request, folder) from error


async def _locked(kept: list[IndexRecord], request: SolveRequest, gateway: Gateway) -> list[RepoDataRecord]:
    # a lockfile doesn't contain the builds of dependencies, so read complete records from the channels
    if not kept:
        return []
    names = [record.name for record in kept]
    found = await gateway.query(request.sources(), request.subdirs(), names, recursive=False)
    by_url = {record.url: record for records in found for record in records}
    return [by_url.get(record.url) or record.to_rattler() for record in kept]


_WAYS = {
    "sharded": SourceConfig(),
    "compressed": SourceConfig(sharded_enabled=False),
    # a server that compresses nothing, or sends broken shards, still has the plain file
    "plain": SourceConfig(sharded_enabled=False, zstd_enabled=False, bz2_enabled=False, cache_action="no-cache"),
}
_FAULTS = (GatewayError, FetchRepoDataError, CacheDirError, IoError)
_CHANNELS = ("conda-forge", "bioconda", "nvidia", "defaults", "rapidsai")
_HERE = {"127.0.0.1", "::1", "localhost"}
_NOT_ALLOWED = ("401 Unauthorized", "403 Forbidden")
_NOT_REACHED = ("(Connect)", "dns error", "timed out")


@contextmanager
def cache(channels: tuple[Channel, ...], environment: Mapping[str, str]) -> Iterator[Path]:
    """Provide the repodata cache: in ``RATTLER_CACHE_DIR``, or else in envforge's cache directory.

    Without ``RATTLER_CACHE_DIR``, a server on this computer is not cached, because another server can use the same port
    later, and the cache identifies files by URL. If the cache directory isn't writable, nothing is cached.
    """
    stated = environment.get("RATTLER_CACHE_DIR")
    folder = (Path(stated) if stated else user_cache_path("envforge", appauthor=False)) / "repodata"
    is_here = any(urlsplit(channel.source).hostname in _HERE for channel in channels)
    if stated or (not is_here and is_writable(folder)):
        yield folder
        return
    with TemporaryDirectory(prefix="envforge-repodata-") as fresh:
        yield Path(fresh)


async def read(channels: tuple[Channel, ...], folder: Path, ask: Callable[[Gateway], Awaitable[T]]) -> T:
    """Run ``ask`` with each way of reading repodata until one works; raise ``OutsideError`` if none does."""
    faults: dict[str, str] = {}
    for kind, way in _WAYS.items():
        if kind == "compressed" and any("/repodata.json" in fault for fault in faults.values()):
            continue  # without shards, the first way has already tried the compressed file
        try:
            return await ask(Gateway(default_config=way, cache_dir=folder))
        except _FAULTS as error:
            faults[kind] = str(error).strip()
            if any(sign in str(error) for sign in _NOT_REACHED):
                raise _failure(channels, faults, is_reached=False) from error
    raise _failure(channels, faults, is_reached=True)


def _failure(channels: tuple[Channel, ...], faults: dict[str, str], *, is_reached: bool) -> OutsideError:
    text = "".join(faults.values())
    concerned = tuple(channel for channel in channels if channel.source in text) or channels
    named = ", ".join(f"`{hide_secrets(channel.address)}`" for channel in concerned)
    lines = {
        fault: f"  - {fault}" if "://" in fault else f"  - {kind} repodata: {fault}"
        for kind, fault in reversed(faults.items())
    }
    listed = "\n".join(in_addresses(line.replace("\n", "\n    "), channels) for line in reversed(lines.values()))
    if not is_reached:
        return OutsideError(
            f"cannot reach channel {named}:\n{listed}", hint=_hints_unreached(concerned), code="channel-unreachable"
        )
    return OutsideError(
        f"cannot read the packages of channel {named}:\n{listed}",
        hint=_hints_unread(concerned, text),
        code="repodata-unreadable",
    )


def in_addresses(text: str, channels: tuple[Channel, ...]) -> str:
    """Return a message of rattler with the URLs of the channels instead of their mirrors, and without credentials."""
    for channel in channels:
        text = text.replace(channel.source, channel.address)
    return hide_secrets(text)


def _hints_unreached(channels: tuple[Channel, ...]) -> tuple[Hint, ...]:
    first = _mirrored(channels) or channels[0]
    return unreachable_hints(hide_secrets(first.address), hide_secrets(first.source))


def _hints_unread(channels: tuple[Channel, ...], text: str) -> tuple[Hint, ...]:
    if any(sign in text for sign in _NOT_ALLOWED):
        return credentials_hints(channels[0].address, without_user(channels[0].source))
    near = nearest(channels[0].name, _CHANNELS, alike=0.8)
    if near is not None and near != channels[0].name:
        return (Hint(f"did you mean channel `{near}`?"),)
    mirrored = _mirrored(channels)
    if mirrored is not None:
        return unreachable_hints(hide_secrets(mirrored.address), hide_secrets(mirrored.source))
    return (Hint(f"check the URL `{hide_secrets(channels[0].address)}`, or try again later"),)


def _mirrored(channels: tuple[Channel, ...]) -> Channel | None:
    # the source of a channel with credentials has them in its URL
    return next((one for one in channels if without_user(one.source) != without_user(one.address)), None)
