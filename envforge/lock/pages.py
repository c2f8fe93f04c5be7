"""Read package indexes over HTTP: pages, metadata, and files.

The URLs of parsed files are absolute, relative to the public URL of the page, and have no fragment.

Callers pass and receive public URLs; if a mirror is set, the bytes come from there.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import html
import io
import itertools
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from email.parser import HeaderParser
from html.parser import HTMLParser
from http import HTTPStatus
from typing import IO, Annotated, TypedDict
from urllib.parse import quote, unquote, urldefrag, urljoin

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.documents import Document, Natural, matching
from envforge.base.net import TRANSIENT, Client, NetworkError, Response, credentials_hints, unreachable_hints
from envforge.base.urls import Mirrors, show_url, without_user
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.lockfile import count_tags
from envforge.lock.plan import LARGEST_METADATA
from envforge.lock.request import LockProgress, LockStep, read_moment

_FRAGMENT = re.compile(r"(?:^|&)(sha512|sha384|sha256|sha224|sha1|md5)=([0-9A-Fa-f]+)")
_METADATA_KEYS = ("data-core-metadata", "data-dist-info-metadata")
_ALGORITHMS = hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}  # whose digests have no fixed length
_MOST_FILES = 50_000  # on a page; the largest pages of PyPI have 15,000
_MOST_MARKS = 750_000  # between the parts of a page, each of which takes time or memory to parse
_MOST_PARSED = 200_000  # tags, or characters of requirements, of a page or a wheel


class IndexFile(Struct, frozen=True, kw_only=True):
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


class Link(Struct, frozen=True, kw_only=True):
    """One file on a page of the lock-time index."""

    href: str
    file_name: str
    sha256: str
    is_yanked: bool = False


def parse_page(text: str, content_type: str, base: str) -> tuple[IndexFile, ...]:
    """Parse a page; ``base`` is its public URL."""
    try:
        return _files(text, base, is_json="json" in content_type)
    except (ValueError, AssertionError) as error:  # the last one of `html.parser`
        message = f"`{show_url(base)}` is not a page of a package index: {error}"
        raise OutsideError(message, code="bad-index-page") from error


def _files(text: str, base: str, *, is_json: bool) -> tuple[IndexFile, ...]:
    """Return the files on a page; raise ``ValueError`` if it would take long to parse it, their names, or limits."""
    if sum(map(text.count, ",[{" if is_json else "<>&=/ \t\n\r\f")) > _MOST_MARKS:
        raise ValueError("it is too large")
    files = tuple(itertools.islice((_json_files if is_json else _html_files)(text, base), _MOST_FILES + 1))
    if len(files) > _MOST_FILES:
        raise ValueError(f"it has more than {_MOST_FILES:,} files")
    if sum(count_tags(file.file_name) for file in files if file.file_name.endswith(".whl")) > _MOST_PARSED:
        raise ValueError(f"it has more than {_MOST_PARSED:,} tags")
    if sum(map(len, {file.requires_python or "" for file in files})) > _MOST_PARSED:
        raise ValueError(f"its `requires-python` have more than {_MOST_PARSED:,} characters")
    if any(file.sha256 and len(file.sha256) != 64 for file in files):
        raise ValueError("it has a SHA-256 that isn't 64 hexadecimal digits")
    return files


def render_page(name: str, links: Iterable[Link]) -> str:
    """Return a page that offers metadata for every file (PEP 503, 658, 714)."""
    rows = []
    for link in links:
        yanked = ' data-yanked=""' if link.is_yanked else ""
        href = html.escape(f"{link.href}#sha256={link.sha256}")
        rows.append(f'<a href="{href}" data-core-metadata="true"{yanked}>{html.escape(link.file_name)}</a><br/>')
    return "\n".join(
        ["<!DOCTYPE html>", f"<html><body><h1>Links for {html.escape(name)}</h1>", *rows, "</body></html>", ""]
    )


def quoted(file_name: str) -> str:
    """Return a file name, quoted for the path of a URL."""
    return quote(file_name, safe="")


def name_in(url: str) -> str:
    """Return the file name at the end of a URL."""
    return unquote(re.split("[?#]", url)[0].rsplit("/", 1)[-1])


class _Anchors(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.links: list[tuple[str, Mapping[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        href = values.get("href")
        if tag == "base" and href:
            self.base = urljoin(self.base, href)
        if tag == "a" and href:
            self.links.append((self.base, values))


def _html_files(text: str, base: str) -> Iterator[IndexFile]:
    parser = _Anchors(base)
    parser.feed(text)
    for start, values in parser.links:
        url, fragment = urldefrag(urljoin(start, str(values["href"])))
        metadata = next((values[key] or "true" for key in _METADATA_KEYS if key in values), "false")
        metadata_digests = dict(_FRAGMENT.findall(metadata))
        yield IndexFile(
            file_name=name_in(url),
            url=url,
            digests=tuple((kind, value.lower()) for kind, value in _FRAGMENT.findall(fragment)),
            requires_python=values.get("data-requires-python") or None,
            has_metadata=metadata != "false",
            metadata_sha256=metadata_digests.get("sha256"),
            is_yanked="data-yanked" in values,
            uploaded=read_moment(values.get("data-upload-time")),
        )


# a file of a page as JSON (PEP 691), whose fields have names that aren't Python names
_Options = TypedDict(
    "_Options",
    {
        "filename": str | None,
        "hashes": dict[str, Annotated[str, matching("[0-9A-Fa-f]+", "hexadecimal digits")]],
        "requires-python": str | None,
        "core-metadata": bool | dict[str, str] | None,
        "dist-info-metadata": bool | dict[str, str] | None,
        "yanked": bool | str | None,
        "size": Natural | None,
        "upload-time": str | None,
    },
    total=False,
)


class _ListedFile(_Options):
    url: str


class _Listing(Struct, frozen=True, kw_only=True):
    files: tuple[_ListedFile, ...]


def _json_files(text: str, base: str) -> Iterator[IndexFile]:
    document = Document(
        damaged=f"`{show_url(base)}` is not a page of a package index", error=OutsideError, code="bad-index-page"
    )
    for entry in document.read_json(text, _Listing).files:
        yield _json_file(entry, base)


def _json_file(entry: _ListedFile, base: str) -> IndexFile:
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
_MOST_AT_ONCE = 1 << 25  # bytes of the directory of a zip file; that of torch has 2 MB
_DELAYS_S = (0.2, 0.4, 0.8)


class Page(Struct, frozen=True, kw_only=True):
    """The response of an index for one project; ``status`` is 200, 403, or 404."""

    url: str
    status: int
    files: tuple[IndexFile, ...] = ()


class Downloads:
    """One HTTP session for one lock."""

    def __init__(self, mirrors: Mirrors, progress: LockProgress) -> None:
        self._mirrors = mirrors
        self._progress = progress
        self._client = Client(timeout_s=_TIMEOUT_S, delays_s=_DELAYS_S)
        self._quick = self._client.without_retries(_HEAD_TIMEOUT_S)
        self._metadata: dict[tuple[str, tuple[tuple[str, str], ...]], Message] = {}  # by URL and digests

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def page(self, index: str, name: str) -> Page:
        """Read the page of a project; ``index`` is the URL as the user wrote it, with environment variables."""
        asked = f"{index.rstrip('/')}/{name}/"
        url = without_user(asked)
        with self._get(asked, headers={"Accept": _ACCEPT, "Accept-Encoding": "gzip"}) as response:
            # download.pytorch.org returns 403 if a tag or a project doesn't exist
            if response.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
                return Page(url=url, status=response.status)
            _refuse_status(response, url)
            base = self._mirrors.to_original(response.url.without_user().reveal())
            files = parse_page(_text(response, url), response.header("Content-Type"), base)
        return Page(url=url, status=200, files=tuple(self._original(file) for file in files))

    def direct(self, url: str) -> Page:
        """Return a page with one wheel, whose URL ends with its SHA-256."""
        public, _, digest = url.partition("#sha256=")
        file = IndexFile(file_name=name_in(public), url=public, digests=(("sha256", digest),))
        python = self.metadata(file)["Requires-Python"]
        return Page(url=file.url, status=200, files=(replace(file, requires_python=python),))

    def metadata(self, file: IndexFile) -> Message:
        """Return the METADATA of a wheel: from its own file (PEP 658), by range requests, or from the entire wheel."""
        key = file.url, file.digests
        if key not in self._metadata:
            self._metadata[key] = _headers(self._read_metadata(file), file)
        return self._metadata[key]

    def _read_metadata(self, file: IndexFile) -> bytes:
        if file.has_metadata:
            data = self._beside(file)
            if data is not None:
                return data
        try:
            return _metadata_in(io.BufferedReader(_RangeReader(self._get, file.url)), file)
        except _NoRangesError:
            with tempfile.TemporaryFile() as wheel:
                self.sha256(file, wheel.write)
                return _metadata_in(wheel, file)

    def small(self, file: IndexFile, most_bytes: int) -> bytes:
        """Return the contents of a document; raise ``OutsideError`` if it has more bytes than such documents have."""
        with self._get(file.url) as response:
            _refuse_status(response, file.url)
            return _content(response, file.url, most_bytes)

    @contextmanager
    def archive(self, file: IndexFile) -> Iterator[zipfile.ZipFile]:
        """Open a wheel by range requests: only its directory and the members that are read are downloaded.

        Raises ``OutsideError`` if the server doesn't support range requests, or ``EnvforgeError`` for an invalid wheel.
        """
        try:
            with _opened(io.BufferedReader(_RangeReader(self._get, file.url), _CHUNK), file) as archive:
                yield archive
        except _NoRangesError as error:
            raise OutsideError(
                f"the server of `{show_url(file.url)}` doesn't support range requests", code="no-ranges"
            ) from error

    def sha256(self, file: IndexFile, keep: Callable[[bytes], object] = len) -> str:
        """Download a file and return its SHA-256; raise ``EnvforgeError`` if the index states another digest."""
        wanted = {kind: hashlib.new(kind) for kind, _ in file.digests if kind in _ALGORITHMS}
        wanted.setdefault("sha256", hashlib.sha256())
        done = 0
        with self._get(file.url) as response:
            _refuse_status(response, file.url)
            total = response.length or file.size
            for chunk in _chunks(response, file.url):
                for digest in wanted.values():
                    digest.update(chunk)
                keep(chunk)
                done += len(chunk)
                self._progress(LockStep(text=f"hashing {file.file_name}", done_bytes=done, total_bytes=total))
        if total is not None and done != total:
            raise OutsideError(
                f"the download of `{show_url(file.url)}` ended after {done} of {total} bytes",
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
        try:
            with self._quick.send(self._mirrors.to_mirror(url), method="HEAD") as response:
                return response.length if response.status == HTTPStatus.OK else None
        except (NetworkError, ValueError):
            return None

    def _beside(self, file: IndexFile) -> bytes | None:
        url = f"{file.url}.metadata"
        with self._get(url) as response:
            if response.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
                return None
            _refuse_status(response, url)
            data = _content(response, url, LARGEST_METADATA)
        found = hashlib.sha256(data).hexdigest()
        if file.metadata_sha256 not in {None, found}:
            raise _mismatch(url, "sha256", str(file.metadata_sha256), found)
        return data

    def _original(self, file: IndexFile) -> IndexFile:
        return replace(file, url=self._mirrors.to_original(file.url))

    def _get(self, url: str, *, headers: dict[str, str] | None = None) -> Response:
        source = self._mirrors.to_mirror(url)
        try:
            return self._client.send(source, headers)
        except ValueError as error:
            hints = unreachable_hints(url, source) if source != url else ()
            message = f"`{show_url(source)}` is not a valid http or https URL: {error}"
            raise OutsideError(message, hint=hints, code="bad-url") from error
        except NetworkError as error:
            raise OutsideError(
                f"cannot reach `{show_url(url)}`: {error}",
                hint=unreachable_hints(url, source, error),
                code="unreachable",
            ) from error


class _NoRangesError(Exception):
    """The server doesn't support range requests."""


class _RangeReader(io.RawIOBase):
    """A file on a server; only the ranges that are read are downloaded.

    The first request fetches the end, which contains the directory of a zip file, and usually its METADATA too.
    """

    def __init__(self, get: Callable[..., Response], url: str) -> None:
        self._get = get
        self._url = url
        self._position = 0
        with get(url, headers={"Range": f"bytes=-{_TAIL}"}) as response:
            size = response.header("Content-Range").rsplit("/", 1)[-1]
            if response.status != HTTPStatus.PARTIAL_CONTENT or not re.fullmatch("[0-9]{1,18}", size):
                _refuse_status(response, url)
                raise _NoRangesError
            self._size = int(size)
            self._tail = _content(response, url, _TAIL)

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
        # the directory of a damaged or hostile zip file can claim any size
        if len(buffer) > _MOST_AT_ONCE:
            raise zipfile.BadZipFile("its directory is too large")
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
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                raise _NoRangesError
            return _content(response, self._url, length)


@contextmanager
def _opened(stream: IO[bytes], file: IndexFile) -> Iterator[zipfile.ZipFile]:
    """Open a wheel; raise ``EnvforgeError`` if it is invalid."""
    try:
        with zipfile.ZipFile(stream) as archive:
            yield archive
    # `NotImplementedError`: a compression that Python lacks; `MemoryError`: a directory of the size that it states
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise EnvforgeError(f"`{show_url(file.url)}` is not a valid wheel: {error}", code="bad-wheel") from error


def _headers(metadata: bytes, file: IndexFile) -> Message:
    # decoded here, because `email` returns a value that isn't UTF-8 as an object
    headers = HeaderParser().parsestr(metadata.decode(errors="replace"))
    parsed = [name + text for name, text in headers.items() if name.lower() in {"requires-dist", "requires-python"}]
    if sum(map(len, parsed)) > _MOST_PARSED:
        message = (
            f"`{show_url(file.url)}` is not a valid wheel: its requirements have more than {_MOST_PARSED:,} characters"
        )
        raise EnvforgeError(message, code="bad-wheel")
    return headers


def _metadata_in(stream: IO[bytes], file: IndexFile) -> bytes:
    with _opened(stream, file) as archive:
        member = next((n for n in archive.infolist() if re.fullmatch(r"[^/]*\.dist-info/METADATA", n.filename)), None)
        if member is None or member.file_size > LARGEST_METADATA:
            raise zipfile.BadZipFile(f"it has no METADATA of at most {LARGEST_METADATA:,} bytes")
        return archive.read(member)


def _text(response: Response, url: str) -> str:
    try:
        return response.text()
    except NetworkError as error:
        raise _cut_off(url, error) from error


def _content(response: Response, url: str, most_bytes: int) -> bytes:
    data = b""
    for chunk in _chunks(response, url):
        data += chunk
        if len(data) > most_bytes:
            raise OutsideError(f"`{show_url(url)}` has more than {most_bytes:,} bytes", code="document-too-large")
    return data


def _chunks(response: Response, url: str) -> Iterator[bytes]:
    try:
        yield from response.chunks(_CHUNK)
    except NetworkError as error:
        raise _cut_off(url, error) from error


def _cut_off(url: str, error: NetworkError) -> OutsideError:
    return OutsideError(
        f"the download of `{show_url(url)}` was interrupted: {error}", hint="run this command again", code="cut-off"
    )


def _refuse_status(response: Response, url: str) -> None:
    if response.status < HTTPStatus.BAD_REQUEST:
        return
    hint: str | tuple[Hint, ...] = "try again later" if response.status in TRANSIENT else ""
    if response.status == HTTPStatus.UNAUTHORIZED:
        hint = credentials_hints(url, str(response.url))
    raise OutsideError(f"`{show_url(url)}` returned HTTP {response.summary}", hint=hint, code="http-status")


def _mismatch(url: str, kind: str, stated: str, found: str) -> EnvforgeError:
    return EnvforgeError(
        f"checksum mismatch for `{show_url(url)}`: expected {kind} `{stated}` (package index), found `{found}`",
        hint="run this command again; if the mismatch persists, report it to the owner of the index",
        code="hash-mismatch",
    )
