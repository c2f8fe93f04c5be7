"""Remove what identifies a person or a computer from strings; change each string in a value; quote paths for a shell.

``redactor`` replaces, in any string:

- the user name, in front of ``@``, in a path, or after a word such as ``user``: ``USER``
- the host name and other hosts of its domain: ``HOST``
- home directories, of this user and of others: ``~``
- UUIDs, of GPUs also if they are shortened: ``GPU-redacted-1``, with the same number for the same UUID
- IPv4 and IPv6 addresses, but no loopback address: ``IP``; MAC addresses: ``MAC``
- e-mail addresses: ``EMAIL``; serial numbers that are named as such: ``SERIAL``
- credentials in URLs
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from envforge.base.urls import hide_secrets

T = TypeVar("T")
_PLAIN = re.compile(r"~?[\w@%+=:,./-]+")

# hidden first: `hide_secrets` may take the start of an e-mail address for a password, and leave its domain
_DOMAIN = re.compile(r"(?<![^\s\"'`(<,])([\w.+-]+@)[\w-]+(?:\.[\w-]+)+(?![\w/:-])")
_PATTERNS = (
    (re.compile(r"(?:/[\w.+-]+)*/(?:home|Users)/[^/\\\s:;,'\"`()]+|[A-Za-z]:[\\/]Users[\\/][^/\\\s:;,'\"`()]+"), "~"),
    (re.compile(r"(?<![\w./~-])/root(?=[/\s:;,'\"`()]|$)"), "~"),
    (re.compile(r"[\w.+-]+@(?:EMAIL\b|[\w-]+(?:\.[\w-]+)+)"), "EMAIL"),
    (re.compile(r"(?<![\w:-])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![\w:-])"), "MAC"),
    (re.compile(r"(?i)\b(serial(?:[ _-]?(?:number|no\.?))?\s*[:=]\s*)[\w-]+"), r"\1SERIAL"),
)
_HEX = "[0-9a-fA-F]"
_UUID = re.compile(
    rf"\b(GPU|MIG)-(?:GPU-)?{_HEX}{{4}}[0-9a-fA-F/-]*(?![\w-])|(?<![\w-]){_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}\b"
)
_IP = re.compile(r"(?<![\w.:=-])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])|[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F]*(?![\w:]))")
# versions of libraries have four numbers, too: `9.1.0.70` alone is one, and so is `cudnn 9.1.0.70`
_BEFORE_VERSION = re.compile(r"(?i)(?:version|driver|release|module|libraries|cuda|nv\w+|cu\w+|lib\w+|nccl|torch\w*) $")
_TOO_SHORT = 3
_COMMON = {"localhost", "root", "user", "ubuntu", "admin", "debian", "ec2-user", "nobody"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The names to search for: of the user, of hosts, and of the home directory. Unknown ones are empty."""

    user: str = ""
    hosts: tuple[str, ...] = ()
    home: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], host: str) -> Identity:
        """Return the identity in the environment of a process."""
        user = environment.get("USER") or environment.get("LOGNAME") or environment.get("USERNAME") or ""
        return cls(user=user, hosts=(host,), home=environment.get("HOME") or environment.get("USERPROFILE") or "")

    def _patterns(self) -> Iterable[tuple[re.Pattern[str], str]]:
        if len(self.home) > 1:
            yield re.compile(rf"{re.escape(self.home)}(?![\w.-])"), "~"
        for host in self.hosts:
            name, _, domain = host.partition(".")
            if "." in domain:
                yield re.compile(rf"(?<![\w@.-])(?:[\w-]+\.)*{re.escape(domain)}(?![\w-])"), "HOST"
            if _is_telling(name):
                yield re.compile(rf"(?<!\w){re.escape(name)}(?!\w)"), "HOST"
        if _is_telling(self.user):
            user = re.escape(self.user)
            named = rf"(?i:(?<=user )|(?<=user=)|(?<=user: )|(?<=user ['\"`])|(?<=owner )){user}(?![\w-])"
            yield re.compile(rf"(?<![\w-]){user}(?=@)|(?<=[/\\]){user}(?![A-Za-z0-9])|{named}"), "USER"


def _is_telling(name: str) -> bool:
    """Return whether a name identifies someone; replacing a common name would make strings unreadable."""
    return len(name) >= _TOO_SHORT and name.lower() not in _COMMON


def redactor(identity: Identity) -> Callable[[str], str]:
    """Return a function that redacts a string, as the docstring of this module lists; equal UUIDs get equal numbers."""
    own = tuple(identity._patterns())  # noqa: SLF001 - of this module
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        return f"{match[1] or 'UUID'}-redacted-{numbers.setdefault(match[0].lower(), len(numbers) + 1)}"

    def clean(text: str) -> str:
        text = hide_secrets(_DOMAIN.sub(r"\1EMAIL", text))
        for pattern, stand_in in (*own, *_PATTERNS):
            text = pattern.sub(stand_in, text)
        return _IP.sub(_without_address, _UUID.sub(numbered, text))

    return clean


def _without_address(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    is_version = match[0] == match.string or _BEFORE_VERSION.search(match.string, 0, match.start())
    is_known = address.is_loopback or address.is_unspecified or (is_version and address.version == 4)
    return match[0] if is_known else "IP"


def change_texts(value: T, change: Callable[[str], str]) -> T:
    """Return a copy of a value of dataclasses, tuples, lists, and dicts with each string changed, but no dict key."""
    return cast("T", _changed(value, change))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if type(value) is str:  # not a member of a string enumeration
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields})
    return value


def quoted(path: str) -> str:
    """Quote a path for a shell; ``~`` at its start keeps its meaning."""
    if _PLAIN.fullmatch(path):
        return path
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def lock_command(platforms: Iterable[str]) -> str:
    """Return the command that locks these platforms."""
    return " ".join(["envforge lock", *(f"-p {shlex.quote(name)}" for name in platforms)])
