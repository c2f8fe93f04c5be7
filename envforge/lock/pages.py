"""Parse and render the pages of a package index: HTML (PEP 503, 658, 714) or JSON (PEP 691).

The URLs of parsed files are absolute, relative to the public URL of the page, and have no fragment.
"""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from envforge.errors import OutsideError
from envforge.lock.cutoff import read_moment

_FRAGMENT = re.compile(r"(?:^|&)(sha512|sha384|sha256|sha224|sha1|md5)=([0-9A-Fa-f]+)")
_METADATA_KEYS = ("data-core-metadata", "data-dist-info-metadata")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """One file on an index. ``has_metadata`` is set if the index serves its metadata as a separate file (PEP 658).

    ``uploaded`` is the upload time that the index states (PEP 700), in UTC.
    """

    file_name: str
    url: str
    digests: tuple[tuple[str, str], ...] = ()
    requires_python: str | None = None
    has_metadata: bool = False
    metadata_sha256: str | None = None
    is_yanked: bool = False
    size: int | None = None
    uploaded: dt.datetime | None = None

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that the index states, or ``None``."""
        return dict(self.digests).get("sha256")


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One file on a page of the lock-time index."""

    href: str
    file_name: str
    sha256: str
    requires_python: str | None = None
    is_yanked: bool = False


def parse_page(text: str, content_type: str, base: str) -> tuple[IndexFile, ...]:
    """Parse a page; ``base`` is its public URL."""
    if "json" in content_type:
        return _parse_json(text, base)
    parser = _Anchors(base)
    parser.feed(text)
    return tuple(parser.files)


def render_page(name: str, links: Iterable[Link]) -> str:
    """Return a page that offers metadata for every file (PEP 503, 658, 714)."""
    rows = []
    for link in links:
        python = f' data-requires-python="{html.escape(link.requires_python)}"' if link.requires_python else ""
        yanked = ' data-yanked=""' if link.is_yanked else ""
        href = html.escape(f"{link.href}#sha256={link.sha256}")
        rows.append(
            f'<a href="{href}" data-core-metadata="true"{python}{yanked}>{html.escape(link.file_name)}</a><br/>'
        )
    return "\n".join(
        ["<!DOCTYPE html>", f"<html><body><h1>Links for {html.escape(name)}</h1>", *rows, "</body></html>", ""]
    )


def quoted(file_name: str) -> str:
    """Return a file name, quoted for the path of a URL."""
    return quote(file_name, safe="")


def name_in(url: str) -> str:
    """Return the file name at the end of a URL."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


class _Anchors(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.files: list[IndexFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        href = values.get("href")
        if tag == "base" and href:
            self.base = urljoin(self.base, href)
        if tag == "a" and href:
            self.files.append(self._file(href, values))

    def _file(self, href: str, values: Mapping[str, str | None]) -> IndexFile:
        url, fragment = urldefrag(urljoin(self.base, href))
        metadata = next((values[key] or "true" for key in _METADATA_KEYS if key in values), "false")
        metadata_digests = dict(_FRAGMENT.findall(metadata))
        return IndexFile(
            file_name=name_in(url),
            url=url,
            digests=tuple((kind, value.lower()) for kind, value in _FRAGMENT.findall(fragment)),
            requires_python=values.get("data-requires-python") or None,
            has_metadata=metadata != "false",
            metadata_sha256=metadata_digests.get("sha256"),
            is_yanked="data-yanked" in values,
            uploaded=read_moment(values.get("data-upload-time")),
        )


def _parse_json(text: str, base: str) -> tuple[IndexFile, ...]:
    try:
        entries = json.loads(text)["files"]
        return tuple(_json_file(entry, base) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutsideError(f"`{base}` is not a page of a package index: {error!r}", code="bad-index-page") from error


def _json_file(entry: Mapping[str, Any], base: str) -> IndexFile:
    metadata = entry.get("core-metadata", entry.get("dist-info-metadata", False))
    url = urldefrag(urljoin(base, entry["url"]))[0]
    return IndexFile(
        file_name=entry.get("filename") or name_in(url),
        url=url,
        digests=tuple((kind, value.lower()) for kind, value in entry.get("hashes", {}).items()),
        requires_python=entry.get("requires-python") or None,
        has_metadata=bool(metadata),
        metadata_sha256=metadata.get("sha256") if isinstance(metadata, dict) else None,
        is_yanked=bool(entry.get("yanked")),
        size=entry.get("size"),
        uploaded=read_moment(entry.get("upload-time")),
    )
