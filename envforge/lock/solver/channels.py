"""Resolve channel names to URLs, and read their repodata."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

from platformdirs import user_cache_path
from rattler import Gateway, SourceConfig
from rattler.exceptions import CacheDirError, FetchRepoDataError, GatewayError, IoError

from envforge.base.net import Mirrors, unreachable_hints, with_credentials
from envforge.base.suggest import nearest
from envforge.base.urls import hide_secrets
from envforge.errors import Hint, OutsideError, RequestError

Priority = Literal["strict", "disabled"]

ALIAS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_DEFAULTS_WINDOWS = "https://repo.anaconda.com/pkgs/msys2"
_HINT = "use a name such as `conda-forge`, a URL, or a path"
_DRIVE = re.compile(r"/[A-Za-z]:(/|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """One channel. ``address`` is for lockfiles and messages, ``source`` is read; neither ends with a slash."""

    name: str
    address: str
    source: str

    @property
    def folder(self) -> Path | None:
        """The directory of a ``file://`` channel, or ``None``."""
        return folder_of(self.source)


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """How channel names are resolved: the alias for plain names, the mirrors, and the platform to lock."""

    mirrors: Mirrors
    platform: str
    alias: str = ALIAS

    def channels(self, words: Iterable[str]) -> tuple[Channel, ...]:
        """Return all channels of a call, in order, without duplicates."""
        found = [channel for word in words for channel in self._expand(word)]
        return tuple({channel.address: channel for channel in found}.values())

    def channel(self, word: str) -> Channel:
        """Return the channel for a URL, a path, or a name; raise ``RequestError`` for anything else."""
        if "://" in word:
            address = word.rstrip("/")
        elif _is_path(word):
            address = Path(word).expanduser().absolute().as_uri()
        elif re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", word):
            address = f"{self.alias}/{word}"
        else:
            raise RequestError(
                f"channel `{hide_secrets(word)}` is not a name, a URL, or a path",
                hint=_HINT,
                code="bad-channel",
            )
        try:
            name = self._name(address)
        except ValueError as error:
            raise RequestError(
                f"channel `{hide_secrets(word)}` is not a valid URL: {error}", hint=_HINT, code="bad-channel"
            ) from error
        return Channel(name=name, address=address, source=with_credentials(self.mirrors.to_mirror(address).rstrip("/")))

    def _expand(self, word: str) -> tuple[Channel, ...]:
        # only if a file names it: Anaconda's channels have terms of use that a user should accept on purpose
        if word != "defaults":
            return (self.channel(word),)
        windows = (_DEFAULTS_WINDOWS,) if self.platform.startswith("win-") else ()
        return tuple(self.channel(address) for address in (*_DEFAULTS, *windows))

    def _name(self, address: str) -> str:
        if address.startswith(f"{self.alias}/"):
            return address[len(self.alias) + 1 :]
        return unquote(urlsplit(address).path.rpartition("/")[2]) or address


def folder_of(address: str) -> Path | None:
    """Return the directory of a ``file:`` URL, or ``None`` for any other URL."""
    parts = urlsplit(address)
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    return Path(path[1:] if _DRIVE.match(path) else path)  # `file:///C:/…` on Windows


def _is_path(word: str) -> bool:
    return word.startswith((".", "/", "\\", "~")) or Path(word).is_absolute()


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
        hint=_hints_unread(concerned),
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


def _hints_unread(channels: tuple[Channel, ...]) -> tuple[Hint, ...]:
    near = nearest(channels[0].name, _CHANNELS, alike=0.8)
    if near is not None and near != channels[0].name:
        return (Hint(f"did you mean channel `{near}`?"),)
    mirrored = _mirrored(channels)
    if mirrored is not None:
        return unreachable_hints(hide_secrets(mirrored.address), hide_secrets(mirrored.source))
    return (Hint(f"check the URL `{hide_secrets(channels[0].address)}`, or try again later"),)


def _mirrored(channels: tuple[Channel, ...]) -> Channel | None:
    return next((channel for channel in channels if channel.source != channel.address), None)
