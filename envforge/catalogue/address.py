"""Parse catalogue URLs, and find the configured catalogue.

``Address.public`` contains no user and no password.

[catalogue]
address = "git+https://host.example/team/locks.git@main"
public-key = "RW…"      # minisign; if set, every lockfile must be signed with it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from envforge.base.settings import (
    read_settings,
    read_settings_table,
    user_file,
)
from envforge.errors import Hint, RequestError

Kind = Literal["folder", "git", "web", "objects"]
_EXAMPLES = (
    "a directory, git+https://host.example/team/locks.git@main, https://host.example/locks, or s3://bucket/locks"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """The URL of a catalogue. ``rev`` (branch, tag, or commit) and ``subdirectory`` apply to git."""

    kind: Kind
    location: str
    rev: str | None = None
    subdirectory: PurePosixPath = PurePosixPath()  # noqa: RUF009 - frozen

    @property
    def public(self) -> str:
        """The URL without credentials."""
        from envforge.base.net import without_credentials  # noqa: PLC0415 - imports an HTTP client

        at = f"@{self.rev}" if self.rev else ""
        part = f"#subdirectory={self.subdirectory}" if self.subdirectory.parts else ""
        return ("git+" if self.kind == "git" else "") + without_credentials(self.location) + at + part


def parse_address(text: str, base: Path, what: str = "catalogue") -> Address:
    """Parse the URL or directory of a catalogue; relative directories are below ``base``.

    ``what`` names the kind of content in errors. Raises ``RequestError`` if the URL is invalid.
    """
    try:
        return _parse(text, base)
    except _NoAddressError as fault:
        raise _refusal(text.strip(), str(fault), what) from fault


class _NoAddressError(ValueError):
    """The reason why a text is not a valid URL of a catalogue."""


def _parse(text: str, base: Path) -> Address:
    text = text.strip()
    if not text or text.startswith("-") or any(ord(c) < 32 for c in text):
        raise _NoAddressError("it is empty, starts with `-`, or contains a control character")
    if text.startswith("git+"):
        return _git(text)
    scheme = text.split("://", 1)[0] if "://" in text else ""
    if scheme in {"http", "https"}:
        return Address(kind="web", location=text.rstrip("/"))
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in {"", "localhost"}:
            raise _NoAddressError(f"`{parts.netloc}` is another machine; expected `file:///DIR`")
        return Address(kind="folder", location=unquote(parts.path))
    if scheme:
        return Address(kind="objects", location=text.rstrip("/"))
    return Address(kind="folder", location=str(base / Path(text).expanduser()))


def _git(text: str) -> Address:
    url, _, fragment = text.removeprefix("git+").partition("#")
    if urlsplit(url).scheme not in {"https", "http", "ssh", "file"}:
        raise _NoAddressError("expected `git+` followed by an https, http, ssh, or file URL")
    head, slash, last = url.rpartition("/")
    last, _, rev = last.partition("@")
    if rev and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", rev) is None:
        raise _NoAddressError(f"`{rev}` is not a valid branch, tag, or commit")
    name, _, value = fragment.partition("=")
    if fragment and name != "subdirectory":
        raise _NoAddressError(f"unknown fragment `#{fragment}`; expected `#subdirectory=DIR`")
    folder = PurePosixPath(value)
    if folder.is_absolute() or ".." in folder.parts or ".git" in folder.parts:
        raise _NoAddressError(f"`{value}` is not a directory inside the repository")
    return Address(kind="git", location=head + slash + last, rev=rev or None, subdirectory=folder)


def _refusal(text: str, reason: str, what: str) -> RequestError:
    from envforge.base.net import without_credentials  # noqa: PLC0415 - as above

    return RequestError(
        f"invalid address `{without_credentials(text)}` of a {what}: {reason}",
        hint=f"use {_EXAMPLES}" if what == "catalogue" else "use git+https://host.example/team/template.git@v1",
        code=f"bad-{what}-address",
    )


CATALOGUE_VARIABLE = "ENVFORGE_CATALOGUE"
PROJECT_FILE = "envforge.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The URL of a catalogue, where it was configured, and the minisign key that must have signed its lockfiles."""

    address: Address
    source: str
    public_key: str | None = None


def chosen_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen | None:
    """Return the first configured catalogue, or None. A key is used only for the URL that it is configured with."""
    stated = [(option, "--catalogue"), (environment.get(CATALOGUE_VARIABLE), CATALOGUE_VARIABLE)]
    for text, source in stated:
        if text:
            address = parse_address(text, folder)
            return Chosen(address=address, source=source, public_key=_key_for(address, folder))
    return next(_configured(folder), None)


def need_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen:
    """Return the configured catalogue; raise ``RequestError`` if there is none."""
    found = chosen_catalogue(option, folder, environment)
    if found is None:
        raise RequestError(
            f"no catalogue is configured: `--catalogue` and `{CATALOGUE_VARIABLE}` are not set, and `[catalogue] "
            f"address` is not in `{folder / PROJECT_FILE}` or `{user_file()}`",
            hint=(
                Hint("to select a catalogue for this command, pass `--catalogue URL`"),
                Hint('to configure one for every command, add `address = "URL"` below `[catalogue]` to either file'),
            ),
            code="no-catalogue",
        )
    return found


def project_template(folder: Path) -> str | None:
    """Return the template of a project; None if envforge.toml contains only settings."""
    table = read_settings(folder / PROJECT_FILE).get("template")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def _configured(folder: Path) -> Iterator[Chosen]:
    for path in (folder / PROJECT_FILE, user_file()):
        table = read_settings_table(path, "catalogue", ("address", "public-key"))
        if "address" in table:
            address = parse_address(table["address"], path.parent)
            yield Chosen(address=address, source=str(path), public_key=table.get("public-key"))


def _key_for(address: Address, folder: Path) -> str | None:
    return next((each.public_key for each in _configured(folder) if each.address == address), None)
