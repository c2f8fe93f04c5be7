"""Read repodata: sharded if the channel has shards, then compressed, then plain, until one of them works."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import urlsplit

from platformdirs import user_cache_path
from rattler import Gateway, SourceConfig
from rattler.exceptions import CacheDirError, FetchRepoDataError, GatewayError, IoError

from envforge.errors import Hint, OutsideError
from envforge.mirrors import unreachable_hints
from envforge.nearest import nearest
from envforge.solver.channels import Channel, hide

T = TypeVar("T")

_WAYS = {
    "sharded": SourceConfig(),
    "compressed": SourceConfig(sharded_enabled=False),
    "plain": SourceConfig(sharded_enabled=False, zstd_enabled=False, bz2_enabled=False, cache_action="no-cache"),
}
_FAULTS = (GatewayError, FetchRepoDataError, CacheDirError, IoError)
_CHANNELS = ("conda-forge", "bioconda", "nvidia", "defaults", "rapidsai")
_HERE = {"127.0.0.1", "::1", "localhost"}
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
    if stated or (not is_here and _is_writable(folder)):
        yield folder
        return
    with TemporaryDirectory(prefix="envforge-repodata-") as fresh:
        yield Path(fresh)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


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
    named = ", ".join(f"`{hide(channel.address)}`" for channel in concerned)
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
        hint=_hints_unread(concerned),
        code="repodata-unreadable",
    )


def in_addresses(text: str, channels: tuple[Channel, ...]) -> str:
    """Return a message of rattler with the URLs of the channels instead of their mirrors, and without credentials."""
    for channel in channels:
        text = text.replace(channel.source, channel.address)
    return hide(text)


def _hints_unreached(channels: tuple[Channel, ...]) -> tuple[Hint, ...]:
    first = _mirrored(channels) or channels[0]
    return unreachable_hints(hide(first.address), hide(first.source))


def _hints_unread(channels: tuple[Channel, ...]) -> tuple[Hint, ...]:
    near = nearest(channels[0].name, _CHANNELS, alike=0.8)
    if near is not None and near != channels[0].name:
        return (Hint(f"did you mean channel `{near}`?"),)
    mirrored = _mirrored(channels)
    if mirrored is not None:
        return unreachable_hints(hide(mirrored.address), hide(mirrored.source))
    return (Hint(f"check the URL `{hide(channels[0].address)}`, or try again later"),)


def _mirrored(channels: tuple[Channel, ...]) -> Channel | None:
    return next((channel for channel in channels if channel.source != channel.address), None)
