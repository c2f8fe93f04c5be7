"""Read package indexes over HTTP: pages, metadata, and files.

The URLs of parsed files are absolute, relative to the public URL of the page, and have no fragment.

Callers pass and receive public URLs; if a mirror is set, the bytes come from there.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import html
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from envforge.base.net import Mirrors, unreachable_hints
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.request import Progress, Step, read_moment

if TYPE_CHECKING:
    import requests

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


_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.9, */*;q=0.1"
_TIMEOUT_S = (10, 60)
_HEAD_TIMEOUT_S = (3, 5)
_PARALLEL = 8
_CHUNK = 1 << 20
_TAIL = 1 << 16
_RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The response of an index for one project; ``status`` is 200, 403, or 404."""

    url: str
    status: int
    files: tuple[IndexFile, ...] = ()


class Downloads:
    """One HTTP session for one lock."""

    def __init__(self, mirrors: Mirrors, progress: Progress) -> None:
        self._mirrors = mirrors
        self._progress = progress
        self._session = _session()
        self._accounts: dict[str, tuple[str, str]] = {}

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def page(self, index: str, name: str) -> Page:
        """Read the page of a project; ``index`` is the URL as the user wrote it, with environment variables."""
        url = f"{self._without_account(os.path.expandvars(index)).rstrip('/')}/{name}/"
        with self._get(url, headers={"Accept": _ACCEPT}) as response:
            # download.pytorch.org returns 403 if a tag or a project doesn't exist
            if response.status_code in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
                return Page(url=url, status=response.status_code)
            _refuse_status(response, url)
            base = self._mirrors.to_original(response.url)
            files = parse_page(response.text, response.headers.get("Content-Type", ""), base)
        return Page(url=url, status=200, files=tuple(self._original(file) for file in files))

    def metadata(self, file: IndexFile) -> bytes:
        """Return the METADATA of a wheel: from its own file (PEP 658), by range requests, or from the entire wheel."""
        if file.has_metadata:
            data = self._beside(file)
            if data is not None:
                return data
        try:
            return _metadata_in(_RangeReader(self._get, file.url), file)
        except _NoRangesError:
            body = self.whole(file)
            return _metadata_in(io.BytesIO(body), file)

    def whole(self, file: IndexFile) -> bytes:
        """Return the contents of a file, verified against the digests that the index states."""
        chunks: list[bytes] = []
        self.sha256(file, chunks.append)
        return b"".join(chunks)

    def sha256(self, file: IndexFile, keep: Callable[[bytes], object] = len) -> str:
        """Download a file and return its SHA-256; raise ``EnvforgeError`` if the index states another digest."""
        wanted = {kind: hashlib.new(kind) for kind, _ in file.digests if kind in hashlib.algorithms_available}
        wanted.setdefault("sha256", hashlib.sha256())
        done = 0
        with self._get(file.url, stream=True) as response:
            _refuse_status(response, file.url)
            total = int(response.headers.get("Content-Length") or 0) or file.size
            for chunk in _chunks(response, file.url):
                for digest in wanted.values():
                    digest.update(chunk)
                keep(chunk)
                done += len(chunk)
                self._progress(Step(text=f"hashing {file.file_name}", done_bytes=done, total_bytes=total))
        if total is not None and done != total:
            raise OutsideError(
                f"the download of `{file.url}` ended after {done} of {total} bytes",
                hint="run this command again",
                code="cut-off",
            )
        for kind, stated in file.digests:
            if kind in wanted and wanted[kind].hexdigest() != stated:
                raise _mismatch(file.url, kind, stated, wanted[kind].hexdigest())
        return wanted["sha256"].hexdigest()

    def sizes(self, urls: Iterable[str]) -> dict[str, int]:
        """Return the size in bytes of each URL whose server states it, read with HEAD requests in parallel."""
        wanted = list(dict.fromkeys(urls))
        with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
            found = zip(wanted, pool.map(self._size, wanted), strict=True)
            return {url: size for url, size in found if size is not None}

    def _size(self, url: str) -> int | None:
        import requests  # noqa: PLC0415 - slow to import

        source = self._mirrors.to_mirror(url)
        account = self._accounts.get(urlsplit(source).hostname or "")
        headers = {"Accept-Encoding": "identity"}  # with compression, the length would not be the size of the file
        try:
            with self._session.head(
                source, headers=headers, timeout=_HEAD_TIMEOUT_S, auth=account, allow_redirects=True
            ) as response:
                length = response.headers.get("Content-Length", "")
                return int(length) if response.status_code == HTTPStatus.OK and length.isdecimal() else None
        except requests.RequestException:
            return None

    def _beside(self, file: IndexFile) -> bytes | None:
        url = f"{file.url}.metadata"
        with self._get(url) as response:
            if response.status_code in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
                return None
            _refuse_status(response, url)
            data: bytes = response.content
        found = hashlib.sha256(data).hexdigest()
        if file.metadata_sha256 not in {None, found}:
            raise _mismatch(url, "sha256", str(file.metadata_sha256), found)
        return data

    def _without_account(self, index: str) -> str:
        """Return the URL without user and password, and remember them for all URLs of its host."""
        parts = urlsplit(index)
        if parts.username is not None and parts.hostname is not None:
            self._accounts[parts.hostname] = (unquote(parts.username), unquote(parts.password or ""))
        return public(index)

    def _original(self, file: IndexFile) -> IndexFile:
        return replace(file, url=self._mirrors.to_original(file.url))

    def _get(self, url: str, *, headers: dict[str, str] | None = None, stream: bool = False) -> requests.Response:
        import requests  # noqa: PLC0415 - slow to import

        source = self._mirrors.to_mirror(url)
        account = self._accounts.get(urlsplit(source).hostname or "")
        try:
            return self._session.get(source, headers=headers, stream=stream, timeout=_TIMEOUT_S, auth=account)
        except requests.RequestException as error:
            raise self._unreached(url, source, error) from error

    def _unreached(self, url: str, source: str, error: requests.RequestException) -> OutsideError:
        from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema  # noqa: PLC0415 - slow to import

        if isinstance(error, (InvalidSchema, InvalidURL, MissingSchema)):
            hints = unreachable_hints(public(url), public(source)) if source != url else ()
            return OutsideError(f"`{public(source)}` is not a valid http or https URL", hint=hints, code="bad-url")
        return OutsideError(
            f"cannot reach `{public(url)}`: {_reason(error)}",
            hint=unreachable_hints(public(url), public(source)),
            code="unreachable",
        )


class _NoRangesError(Exception):
    """The server doesn't support range requests."""


class _RangeReader(io.RawIOBase):
    """A file on a server; only the ranges that are read are downloaded.

    The first request fetches the end, which contains the directory of a zip file, and usually its METADATA too.
    """

    def __init__(self, get: Callable[..., requests.Response], url: str) -> None:
        self._get = get
        self._url = url
        self._position = 0
        with get(url, headers={"Range": f"bytes=-{_TAIL}"}, stream=True) as response:
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                _refuse_status(response, url)
                raise _NoRangesError
            self._size = int(response.headers["Content-Range"].rsplit("/", 1)[1])
            self._tail: bytes = response.content

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # any writable buffer
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._part(self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _part(self, start: int, length: int) -> bytes:
        in_tail = start - (self._size - len(self._tail))
        if in_tail >= 0:
            return self._tail[in_tail : in_tail + length]
        with self._get(self._url, headers={"Range": f"bytes={start}-{start + length - 1}"}) as response:
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise _NoRangesError
            data: bytes = response.content
        return data


def _metadata_in(stream: io.IOBase, file: IndexFile) -> bytes:
    try:
        with zipfile.ZipFile(io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
            return archive.read(name)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise EnvforgeError(f"`{file.url}` is not a valid wheel: it has no METADATA", code="bad-wheel") from error


def public(url: str) -> str:
    """Return a URL without user and password."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _session() -> requests.Session:
    import requests  # noqa: PLC0415 - slow to import
    from requests.adapters import HTTPAdapter  # noqa: PLC0415
    from urllib3.util.retry import Retry  # noqa: PLC0415

    session = requests.Session()
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates and not os.environ.get("REQUESTS_CA_BUNDLE"):
        session.verify = certificates
    retry = Retry(total=3, backoff_factor=0.2, status_forcelist=_RETRIED, raise_on_status=False)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _chunks(response: requests.Response, url: str) -> Iterator[bytes]:
    import requests  # noqa: PLC0415

    try:
        yield from response.iter_content(_CHUNK)
    except requests.RequestException as error:
        raise OutsideError(
            f"the download of `{url}` was interrupted: {_reason(error)}", hint="run this command again", code="cut-off"
        ) from error


def _refuse_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status < HTTPStatus.BAD_REQUEST:
        return
    hint = "try again later" if status in _RETRIED else ""
    if status == HTTPStatus.UNAUTHORIZED:
        hint = f"add the user name and password for `{urlsplit(response.url).hostname}` to `~/.netrc`"
    raise OutsideError(f"`{public(url)}` returned HTTP {status} {response.reason}", hint=hint, code="http-status")


def _mismatch(url: str, kind: str, stated: str, found: str) -> EnvforgeError:
    return EnvforgeError(
        f"checksum mismatch for `{url}`: expected {kind} `{stated}` (package index), found `{found}`",
        hint="run this command again; if the mismatch persists, report it to the owner of the index",
        code="hash-mismatch",
    )


def _reason(error: Exception) -> str:
    """Return the innermost reason of a network error, such as ``[Errno 111] Connection refused``."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return " ".join(str(cause or error).split()).rsplit(": ", 1)[-1]
