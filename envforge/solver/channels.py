"""Resolve channel names to URLs: the one that a lockfile records, and the one that is read (a mirror if set)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from envforge.errors import RequestError
from envforge.mirrors import Mirrors

ALIAS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_DEFAULTS_WINDOWS = "https://repo.anaconda.com/pkgs/msys2"
_HINT = "use a name such as `conda-forge`, a URL, or a path"
_DRIVE = re.compile(r"/[A-Za-z]:(/|$)")
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_TOKEN = re.compile(r"/t/[^/\s]+")


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
                f"channel `{hide(word)}` is not a name, a URL, or a path",
                hint=_HINT,
                code="bad-channel",
            )
        try:
            name = self._name(address)
        except ValueError as error:
            raise RequestError(
                f"channel `{hide(word)}` is not a valid URL: {error}", hint=_HINT, code="bad-channel"
            ) from error
        return Channel(name=name, address=address, source=self.mirrors.to_mirror(address).rstrip("/"))

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


def hide(text: str) -> str:
    """Return ``text`` without user names, passwords, and tokens in URLs."""
    return _TOKEN.sub("/t/<TOKEN>", _USER.sub("", text))


def _is_path(word: str) -> bool:
    return word.startswith((".", "/", "\\", "~")) or Path(word).is_absolute()
