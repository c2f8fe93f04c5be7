"""Describe a solve: channels, specs, packages, virtual packages, and preferences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace
from rattler import Channel as Source
from rattler import (
    ChannelPriority,
    GenericVirtualPackage,
    MatchSpec,
    PackageName,
    PackageRecord,
    RepoDataRecord,
    Version,
)
from rattler import VirtualPackage as HostVirtualPackage
from rattler.exceptions import (
    ConversionError,
    InvalidChannelError,
    InvalidMatchSpecError,
    InvalidPackageNameError,
    InvalidUrlError,
    InvalidVersionError,
    ParseSubdirError,
)
from rattler.package import BuildString
from rattler.platform import Subdir

from envforge.base.documents import Document
from envforge.base.net import with_credentials
from envforge.base.urls import Mirrors, hide_secrets
from envforge.errors import EnvforgeError, RequestError
from envforge.lock.solver import PREFERENCES_VARIABLE, Wishes

Priority = Literal["strict", "disabled"]

ALIAS = "https://conda.anaconda.org"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_DEFAULTS_WINDOWS = "https://repo.anaconda.com/pkgs/msys2"
_HINT = "use a name such as `conda-forge`, a URL, or a path"
_DRIVE = re.compile(r"/[A-Za-z]:(/|$)")


class Channel(Struct, frozen=True, kw_only=True):
    """One channel. ``address`` is for lockfiles and messages, ``source`` is read; neither ends with a slash."""

    name: str
    address: str
    source: str

    @property
    def folder(self) -> Path | None:
        """The directory of a ``file://`` channel, or ``None``."""
        return folder_of(self.source)


class Naming(Struct, frozen=True, kw_only=True):
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


class IndexRecord(Struct, frozen=True, kw_only=True):
    """One package file. Fields that the repodata doesn't state are ``None``, as in records copied from lockfiles."""

    name: str
    version: str
    build: str
    build_number: int = 0
    subdir: str
    fn: str
    url: str
    channel: str
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    timestamp: int | None = None
    indexed_timestamp: int | None = None
    license: str | None = None
    noarch: str | None = None

    @property
    def dist_name(self) -> str:
        """The name of the file without its suffix."""
        return f"{self.name}-{self.version}-{self.build}"

    @classmethod
    def read(cls, text: str | bytes, where: str) -> IndexRecord:
        """Parse a repodata or conda-meta entry; raise ``EnvforgeError`` if it is invalid."""
        document = Document(damaged=f"{where} is not a package record", error=EnvforgeError, code="bad-prefix-record")
        record = document.read_json(text, cls)
        # conda-meta entries may name the channel with its subdir
        return replace(record, channel=record.channel.rstrip("/").removesuffix(f"/{record.subdir}"))

    def to_rattler(self) -> RepoDataRecord:
        """Convert to a record of rattler."""
        record = PackageRecord(
            self.name,
            self.version,
            BuildString(self.build),
            self.build_number,
            self.subdir,
            depends=list(self.depends),
            constrains=list(self.constrains),
            sha256=bytes.fromhex(self.sha256) if self.sha256 else None,
            md5=bytes.fromhex(self.md5) if self.md5 else None,
            size=self.size,
        )
        return RepoDataRecord(record, self.fn, self.url, self.channel)


_KIND = "virtual_system"  # of the channel that conda-lock 4 writes (its `virtual_package.py`)


class VirtualPackage(Struct, frozen=True, kw_only=True, order=True):
    """One property of the target machine, such as ``__cuda 12.4``."""

    name: str
    version: str
    build: str

    def to_rattler(self) -> GenericVirtualPackage:
        """Convert for rattler; raise ``RequestError`` if the name or the version is invalid."""
        try:
            return GenericVirtualPackage(PackageName(self.name), Version(self.version), BuildString(self.build))
        except (InvalidPackageNameError, InvalidVersionError, ValueError) as error:
            raise RequestError(
                f"virtual package `{self.name} {self.version} {self.build}` is invalid: {error}",
                hint='write it as in `__cuda: "12.4"` in `virtual-packages.yml`',
                code="bad-virtual-package",
            ) from error


def split_virtual_packages(
    channels: tuple[Channel, ...], platform: str
) -> tuple[tuple[Channel, ...], tuple[VirtualPackage, ...] | None]:
    """Return the real channels, and the virtual packages if the last channel is a directory of them, else ``None``."""
    folder = channels[-1].folder if channels else None
    if folder is None:
        return channels, None
    found = [package for subdir in (platform, "noarch") for package in _virtual_in(folder / subdir / "repodata.json")]
    if not found and not _is_empty(folder):
        return channels, None
    return channels[:-1], tuple(sorted(found))


def _virtual_in(path: Path) -> Iterator[VirtualPackage]:
    for entry in _packages(path):
        if entry.get("package_type") == _KIND:
            yield _repodata(path).convert(entry, VirtualPackage)


def _is_empty(folder: Path) -> bool:
    """Return whether a channel has no real package, as conda-lock's channel if no virtual package is stated."""
    paths = list(folder.glob("*/repodata.json"))
    return bool(paths) and all(entry.get("package_type") == _KIND for path in paths for entry in _packages(path))


def _packages(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    read = _repodata(path).read_json(path.read_bytes(), dict[str, Any])
    keys = ("packages", "packages.conda")
    tables = [_repodata(path).convert(read.get(key, {}), dict[str, dict[str, Any]], key) for key in keys]
    return [entry for table in tables for entry in table.values()]


def _repodata(path: Path) -> Document:
    return Document(damaged=f"`{path}` is not valid repodata", error=EnvforgeError, code="bad-repodata", trusted=True)


def read_preferences(environment: Mapping[str, str]) -> Wishes:
    """Return the preferences for this call; empty if the variable is not set."""
    path = environment.get(PREFERENCES_VARIABLE)
    if not path:
        return Wishes()
    document = Document(
        damaged=f"`{path}` (from `{PREFERENCES_VARIABLE}`) is invalid", error=EnvforgeError, code="bad-wishes"
    )
    return document.read_json(document.read_bytes(Path(path)), Wishes)


PRIORITIES = {"strict": ChannelPriority.Strict, "disabled": ChannelPriority.Disabled}
_UNREADABLE = (InvalidMatchSpecError, InvalidPackageNameError, InvalidChannelError, ConversionError)


class SolveRequest(Struct, frozen=True, kw_only=True):
    """One solve. ``installed`` packages are kept as far as the packages in ``specs`` allow.

    ``virtual`` is ``None`` if the call states no virtual packages.
    """

    specs: tuple[str, ...]
    channels: tuple[Channel, ...]
    naming: Naming
    virtual: tuple[VirtualPackage, ...] | None
    installed: tuple[IndexRecord, ...] = ()
    priority: Priority = "strict"
    environment: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)

    def with_named_channels(self) -> SolveRequest:
        """Add the channels that only specs name (``channel::package``), as conda does."""
        named = [self._channel(text) for text in self.specs]
        channels = {channel.address: channel for channel in (*self.channels, *named) if channel is not None}
        return replace(self, channels=tuple(channels.values()))

    def match_spec(self, text: str) -> MatchSpec:
        """Return the spec for rattler, with the source of its channel; raise ``RequestError`` if it is invalid."""
        channel = self._channel(text)
        rest = text.partition("::")[2] if channel else text
        try:
            return MatchSpec(f"{channel.source}::{rest}" if channel else rest)
        except _UNREADABLE as error:
            raise RequestError(
                f"`{hide_secrets(text)}` is not a valid package spec: {hide_secrets(str(error))}",
                hint='write a name and a version constraint, such as `"numpy >=2,<3"`',
                code="bad-spec",
            ) from error

    def _channel(self, text: str) -> Channel | None:
        # conda-lock shortens the URL before `::` to its last part, so names of listed channels are looked up first
        word, separator, _ = text.partition("::")
        if not separator:
            return None
        by_name = {channel.name: channel for channel in reversed(self.channels)}
        return by_name.get(word) or self.naming.channel(word)

    def sources(self) -> list[Source]:
        """Return the channels for rattler, at the URLs where they are read."""
        return [_source(channel) for channel in self.channels]

    def subdirs(self) -> list[Subdir]:
        """Return the platform and ``noarch``; raise ``RequestError`` if conda doesn't have the platform."""
        try:
            return [Subdir(self.naming.platform), Subdir("noarch")]
        except ParseSubdirError as error:
            raise RequestError(
                f"`{self.naming.platform}` is not a conda platform",
                hint="set `CONDA_SUBDIR` to a platform such as `linux-64`",
                code="bad-platform",
            ) from error

    def virtual_packages(self) -> list[GenericVirtualPackage]:
        """Return the stated virtual packages, or else those of this computer if its platform is the requested one."""
        if self.virtual is not None:
            return [package.to_rattler() for package in self.virtual]
        is_here = str(Subdir.current()) == self.naming.platform
        return [package.into_generic() for package in HostVirtualPackage.detect()] if is_here else []

    def at_source(self, record: IndexRecord) -> IndexRecord:
        """Return a locked record with the URLs from which its channel is read."""
        for channel in self.channels:
            if record.url.startswith(f"{channel.address}/"):
                return replace(
                    record, url=channel.source + record.url.removeprefix(channel.address), channel=channel.source
                )
        return record

    def at_home(self, record: IndexRecord) -> IndexRecord:
        """Return a solved record with the URLs that a lockfile contains."""
        for channel in self.channels:
            if record.url.startswith(f"{channel.source}/"):
                return replace(
                    record, url=channel.address + record.url.removeprefix(channel.source), channel=channel.address
                )
        mirrors = self.naming.mirrors
        return replace(record, url=mirrors.to_original(record.url), channel=mirrors.to_original(record.channel))


def _source(channel: Channel) -> Source:
    try:
        return Source(channel.source)
    except (InvalidChannelError, InvalidUrlError) as error:
        raise RequestError(
            f"channel `{hide_secrets(channel.source)}` is not a valid URL: {hide_secrets(str(error))}",
            hint=_HINT,
            code="bad-channel",
        ) from error
