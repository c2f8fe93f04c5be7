"""Parse the URLs of catalogues.

``Address.public`` contains no user and no password.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

from msgspec import Struct

from envforge.base.urls import Url, show_url
from envforge.errors import RequestError

_EXAMPLES = (
    "a directory, git+https://host.example/team/locks.git@main, https://host.example/locks, or s3://bucket/locks"
)
_OF_AZURE = {"abfs", "abfss", "adl", "az"}
_USUAL_PORTS = {None, 22, 80, 443}


class Address(Struct, frozen=True, kw_only=True):
    """The URL of a catalogue. ``rev`` (branch, tag, or commit) and ``subdirectory`` apply to git."""

    kind: Literal["folder", "git", "web", "objects"]
    location: str
    rev: str | None = None
    subdirectory: PurePosixPath = PurePosixPath()

    @property
    def public(self) -> str:
        """The URL without credentials."""
        at = f"@{self.rev}" if self.rev else ""
        part = f"#subdirectory={self.subdirectory}" if self.subdirectory.parts else ""
        return ("git+" if self.kind == "git" else "") + show_url(self.location) + at + part

    @property
    def place(self) -> str:
        """The place that the URL leads to, equal for all its spellings.

        A key protects a place, so what could be two places is one here: the scheme, the user, the usual ports, the
        case, and the revision of a repository don't matter, and links and ``..`` are resolved. fsspec has several
        schemes for one store.
        """
        url = None if self.kind == "folder" else Url.parse(self.location)
        folder = Path(self.location) if url is None else url.file_path
        if url is None or folder is not None:
            path = os.path.realpath(folder or "").removesuffix(".git")
            return posixpath.normpath(f"{path}/{self.subdirectory}").casefold()
        port = "" if url.port in _USUAL_PORTS else f":{url.port}"
        path = posixpath.normpath(f"/{unquote(url.path)}").lstrip("/").removesuffix(".git")
        # in `abfs://CONTAINER@ACCOUNT/PATH`, the account may be omitted
        host = url.user_info if url.user_info and url.scheme in _OF_AZURE else _same_host(url.host)
        return f"//{host}{port}/{posixpath.normpath(f'{path}/{self.subdirectory}')}".casefold()


def _same_host(host: str) -> str:
    """Return the one spelling of a host: of an IPv6 address the shortest, of an IPv4 address in it the IPv4 address."""
    if ":" in host:
        address = IPv6Address(host)
        return str(address.ipv4_mapped or address)
    try:
        return host.rstrip(".").encode("idna").decode()
    except UnicodeError:  # a label that is too long, which no server has
        return host.rstrip(".").casefold()


def parse_address(text: str, base: Path, what: str = "catalogue") -> Address:
    """Parse the URL or directory of a catalogue; relative directories are below ``base``.

    ``what`` names the kind of content in errors. Raises ``RequestError`` if the URL is invalid.
    """
    try:
        return _parse(text.strip(), base)
    except ValueError as fault:
        raise RequestError(
            f"invalid address `{show_url(text.strip())}` of a {what}: {fault}",
            hint=f"use {_EXAMPLES}" if what == "catalogue" else "use git+https://host.example/team/template.git@v1",
            code=f"bad-{what}-address",
        ) from fault


def _parse(text: str, base: Path) -> Address:
    """Parse an address; raise ``ValueError`` with the reason."""
    if not text or text.startswith("-") or not text.isprintable():
        raise ValueError("it is empty, starts with `-`, or contains a control character")
    if text.startswith("git+"):
        return _git(text.removeprefix("git+"))
    if "://" not in text:
        return Address(kind="folder", location=str(base / Path(text).expanduser()))
    url = _url(text)
    if url.scheme == "file":
        if url.file_path is None:
            raise ValueError(f"`{url.host}` is another machine; expected `file:///DIR`")
        return Address(kind="folder", location=str(url.file_path))
    if "::" in url.path:
        raise ValueError("it is a chain of URLs")  # of fsspec, which reads the last one
    if not url.host or "?" in text or "#" in text:
        raise ValueError("it has no host, or has a query or a fragment")
    if url.scheme in {"local", "localfs"}:  # of fsspec; it would be another spelling of a directory
        raise ValueError("expected a directory or `file:///DIR`")
    return Address(kind="web" if url.scheme in {"http", "https"} else "objects", location=text.rstrip("/"))


def _url(text: str) -> Url:
    url = Url.parse(text)
    # libraries read other characters in different ways: `127.0.0.1\x`, `127.0.0.%31`, `[fe80::1%25eth0]`
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", url.scheme) or "\\" in text or not re.fullmatch(r"[\w.:-]*", url.host):
        raise ValueError("its scheme or its host contains an unexpected character")
    host = unicodedata.normalize("NFKC", url.host)
    if "[" in text:
        IPv6Address(host)
    # `127.1` and `0x7f000001` are other spellings of an address, which only the resolver knows
    if re.fullmatch(r"[0-9.]+|(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*\.?", host):
        IPv4Address(host)
    return url


def _git(text: str) -> Address:
    location, _, fragment = text.partition("#")
    head, slash, last = location.rpartition("/")
    last, _, rev = last.partition("@")
    url = _url(head + slash + last)
    if url.scheme not in {"https", "http", "ssh", "file"} or "://" not in location or "?" in location:
        raise ValueError("expected `git+` followed by an https, http, ssh, or file URL")
    if rev and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", rev) is None:
        raise ValueError("the text after `@` is not a valid branch, tag, or commit")
    name, _, value = fragment.partition("=")
    if fragment and name != "subdirectory":
        raise ValueError("unknown fragment; expected `#subdirectory=DIR`")
    folder = PurePosixPath(value)
    if folder.is_absolute() or ".." in folder.parts or ".git" in folder.parts:
        raise ValueError(f"`{value}` is not a directory inside the repository")
    return Address(kind="git", location=url.reveal(), rev=rev or None, subdirectory=folder)
