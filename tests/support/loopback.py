"""Serve a directory or a function over HTTP on 127.0.0.1, record every request, and fail on demand.

    with Loopback(folder) as server:
        server.url                      # http://127.0.0.1:PORT
        server.requests                 # tuple of Request(method, path, headers), oldest first
        server.fail("/a.conda", Fault(status=503), times=2)

Range requests return 206 and matching ``If-None-Match`` headers return 304, as a correct file server does.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK = 1 << 16
_TYPES = {".html": "text/html", ".json": "application/json"}


class Request(Struct, frozen=True, kw_only=True):
    """One request as it came in; ``path`` is percent-encoded as sent, without the query."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Response(Struct, frozen=True, kw_only=True):
    """What a function that stands in for a folder answers; a file is sent from disk, part by part."""

    body: bytes | Path
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] | None = None

    @property
    def total(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    @property
    def etag(self) -> str:
        if isinstance(self.body, bytes):
            return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'
        found = self.body.stat()
        return f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'

    def chunks(self) -> Iterator[bytes]:
        start, stop = self.span or (0, self.total)
        with io.BytesIO(self.body) if isinstance(self.body, bytes) else self.body.open("rb") as stream:
            stream.seek(start)
            while start < stop and (chunk := stream.read(min(_CHUNK, stop - start))):
                start += len(chunk)
                yield chunk


class Fault(Struct, frozen=True, kw_only=True):
    """What goes wrong with one answer.

    ``status`` answers with that code (and ``body``); ``truncate_at`` cuts the connection after so many bytes of the
    body, while ``Content-Length`` promises all; ``content_length`` promises that length; ``html`` answers 200 with a
    page instead of the file; ``corrupt`` flips a bit in each chunk; ``delay_s`` waits before the answer;
    ``pause_s`` waits before each chunk of ``_CHUNK`` bytes; ``no_ranges`` ignores ``Range``.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    truncate_at: int | None = None
    content_length: int | None = None
    html: bool = False
    corrupt: bool = False
    delay_s: float = 0.0
    pause_s: float = 0.0
    no_ranges: bool = False


Answer = Callable[[Request], Response | None]


class Loopback:
    """A threaded file server for the time of a ``with`` block.

    ``source`` is a folder, or a function from request to response (``None`` means 404). ``gate`` is called with each
    request before it is answered, for tests that must know that a download is under way.
    """

    def __init__(self, source: Path | Answer, *, gate: Callable[[Request], None] | None = None) -> None:
        self._answer = _folder(source) if isinstance(source, Path) else source
        self._gate = gate
        self._requests: list[Request] = []
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        with self._lock:
            return tuple(self._requests)

    def paths(self) -> list[str]:
        """The path of every request so far."""
        return [request.path for request in self.requests]

    def fail(self, path: str, fault: Fault, *, times: int | None = None) -> None:
        """Answer ``path`` (decoded, with its leading slash) with ``fault``: ``times`` times, or always."""
        with self._lock:
            if times is None:
                self._always[path] = fault
            else:
                self._faults.setdefault(path, []).extend([fault] * times)

    def heal(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._always.clear()
            self._faults.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _note(self, request: Request) -> Fault | None:
        path = unquote(request.path)
        with self._lock:
            self._requests.append(request)
            queue = self._faults.get(path)
            return queue.pop(0) if queue else self._always.get(path)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve()

            def do_HEAD(self) -> None:
                self._serve()

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(method=self.command, path=parts.path, query=parts.query, headers=headers)
                fault = outer._note(request)
                if outer._gate is not None:
                    outer._gate(request)
                try:
                    _send(self, request, outer._answer(request), fault or Fault())
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name in the base class
                """Stay quiet: tests read ``requests``."""

        return Handler


def _folder(root: Path) -> Answer:
    base = root.resolve()

    def answer(request: Request) -> Response | None:
        path = (base / unquote(request.path).lstrip("/")).resolve()
        if not path.is_relative_to(base):
            return None
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():
            return None
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        return Response(body=path, headers={"Content-Type": kind})

    return answer


def _send(handler: BaseHTTPRequestHandler, request: Request, response: Response | None, fault: Fault) -> None:
    time.sleep(fault.delay_s)
    if fault.html:
        page = b"<html><body><h1>Please sign in to this network</h1></body></html>"
        response = Response(body=page, headers={"Content-Type": "text/html"})
    if fault.status is not None:
        response = Response(body=fault.body, status=fault.status, headers=fault.headers)
    if response is None:
        response = Response(body=b"not found\n", status=404)
    if response.status == HTTPStatus.OK and not fault.html:
        response = _conditional(request, response, ranges=not fault.no_ranges)
    _write(handler, response, fault)


def _conditional(request: Request, response: Response, *, ranges: bool) -> Response:
    etag = response.etag
    headers = {**response.headers, "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(body=b"", status=304, headers={"ETag": etag})
    if not ranges:
        return Response(body=response.body, headers=headers)
    headers["Accept-Ranges"] = "bytes"
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)|bytes=-(\d+)", request.headers.get("range", ""))
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return Response(body=response.body, headers=headers)
    total = response.total
    if wanted[3] is not None:
        start, stop = max(0, total - int(wanted[3])), total
    else:
        start, stop = int(wanted[1]), min(total, int(wanted[2]) + 1 if wanted[2] else total)
    if start >= stop:
        return Response(body=b"", status=416, headers={"Content-Range": f"bytes */{total}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
    return Response(body=response.body, status=206, headers=headers, span=(start, stop))


def _write(handler: BaseHTTPRequestHandler, response: Response, fault: Fault) -> None:
    start, stop = response.span or (0, response.total)
    handler.send_response(response.status)
    for name, value in response.headers.items():
        handler.send_header(name, value)
    promised = fault.content_length if fault.content_length is not None else stop - start
    if response.status != HTTPStatus.NOT_MODIFIED:
        handler.send_header("Content-Length", str(promised))
    if fault.truncate_at is not None or fault.content_length is not None:
        handler.close_connection = True
        handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.command == "HEAD" or response.status == HTTPStatus.NOT_MODIFIED:
        return
    left = fault.truncate_at if fault.truncate_at is not None else stop - start
    for chunk in response.chunks():
        time.sleep(fault.pause_s)
        part = chunk[:left]
        handler.wfile.write(bytes([part[0] ^ 1]) + part[1:] if fault.corrupt and part else part)
        left -= len(part)
