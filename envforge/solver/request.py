"""Define the request for a solve, and convert its specs, channels, platforms, and virtual packages for rattler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rattler import Channel as Source
from rattler import ChannelPriority, GenericVirtualPackage, MatchSpec
from rattler import VirtualPackage as HostVirtualPackage
from rattler.exceptions import (
    ConversionError,
    InvalidChannelError,
    InvalidMatchSpecError,
    InvalidPackageNameError,
    InvalidUrlError,
    ParseSubdirError,
)
from rattler.platform import Subdir

from envforge.errors import RequestError
from envforge.solver.arguments import Priority
from envforge.solver.channels import Channel, Naming, hide
from envforge.solver.records import Record
from envforge.solver.virtual import VirtualPackage
from envforge.solver.wishes import Wishes

_PRIORITIES = {"strict": ChannelPriority.Strict, "disabled": ChannelPriority.Disabled}
_UNREADABLE = (InvalidMatchSpecError, InvalidPackageNameError, InvalidChannelError, ConversionError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One solve. ``installed`` packages are kept as far as the packages in ``specs`` allow.

    ``virtual`` is ``None`` if the call states no virtual packages.
    """

    specs: tuple[str, ...]
    channels: tuple[Channel, ...]
    naming: Naming
    virtual: tuple[VirtualPackage, ...] | None
    installed: tuple[Record, ...] = ()
    priority: Priority = "strict"
    environment: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)

    def with_named_channels(self) -> Request:
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
                f"`{hide(text)}` is not a valid package spec: {hide(str(error))}",
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

    def channel_priority(self) -> ChannelPriority:
        """Return the channel priority for rattler."""
        return _PRIORITIES[self.priority]

    def at_source(self, record: Record) -> Record:
        """Return a locked record with the URLs from which its channel is read."""
        for channel in self.channels:
            if record.url.startswith(f"{channel.address}/"):
                return replace(record, url=_moved(record.url, channel.address, channel.source), channel=channel.source)
        return record

    def at_home(self, record: Record) -> Record:
        """Return a solved record with the URLs that a lockfile contains."""
        for channel in self.channels:
            if record.url.startswith(f"{channel.source}/"):
                return replace(record, url=_moved(record.url, channel.source, channel.address), channel=channel.address)
        mirrors = self.naming.mirrors
        return replace(record, url=mirrors.to_original(record.url), channel=mirrors.to_original(record.channel))


def _source(channel: Channel) -> Source:
    try:
        return Source(channel.source)
    except (InvalidChannelError, InvalidUrlError) as error:
        raise RequestError(
            f"channel `{hide(channel.source)}` is not a valid URL: {hide(str(error))}",
            hint="use a name such as `conda-forge`, a URL, or a path",
            code="bad-channel",
        ) from error


def _moved(url: str, old: str, new: str) -> str:
    return new + url[len(old) :]
