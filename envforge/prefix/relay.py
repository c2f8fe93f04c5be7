"""Serve wheels to uv from the cache, also while they are still being downloaded.

uv unpacks a wheel while it receives it. The end of the file is sent only after its checksum was verified, so uv never
completes another file. uv stores what it unpacked under an address that contains the locked checksum and no port: it
reaches the relay as its proxy, and needs none for what its cache has. Docs: decisions/0116.
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from envforge.lock.plan import Artifact
from envforge.prefix.cache import Store

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from typing_extensions import Self

_HOST = "http://envforge.invalid"  # reserved by RFC 2606, so no other proxy or server can answer
# bytes that are sent only after the checksum is verified, so that uv can't complete another file
_HELD_BACK = 1 << 16
_LOOK_EVERY_S = 0.1
_LOOPBACK_S = 5.0


def index_url(artifact: Artifact) -> str:
    """Return the address of an index with only this wheel, by which uv names the wheel in its cache."""
    return f"{_HOST}/{artifact.digest.algorithm}/{artifact.digest.hex}"


def wheel_url(artifact: Artifact) -> str:
    """Return the address at which the relay serves a wheel."""
    return f"{index_url(artifact)}/{quote(artifact.file_name)}"


def loopback_works() -> bool:
    """Return whether uv can reach a relay; a sandbox may lack even the loopback interface."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            socket.create_connection(listener.getsockname(), timeout=_LOOPBACK_S).close()
        except OSError:
            return False
    return True


class Relay:
    """A server on the loopback interface for one run of uv; other users of the machine lack its password."""

    def __init__(self, artifacts: Iterable[Artifact], store: Store) -> None:
        self._paths = {wheel_url(artifact): store.path(artifact) for artifact in artifacts}
        self._verified: set[Path] = set()
        self._changed = threading.Condition()
        self._is_stopped = False
        self._password = secrets.token_urlsafe()
        from http.server import ThreadingHTTPServer  # noqa: PLC0415 - slow to import, and needed only for downloads

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # a thread may wait for a download that never continues, and must not keep the process alive
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which uv uses the relay."""
        proxy = f"http://uv:{self._password}@127.0.0.1:{self._server.server_address[1]}"
        # uv may wait for as long as a download takes, which has its own timeouts
        return {"HTTP_PROXY": proxy, "UV_HTTP_TIMEOUT": "86400"}

    def complete(self, path: Path) -> None:
        """Send the end of a wheel, whose checksum was verified."""
        with self._changed:
            self._verified.add(path)
            self._changed.notify_all()

    def stop(self) -> None:
        """Close all connections and answer no request, so that uv fails."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._server.shutdown()
        self._server.server_close()

    def _wait(self, path: Path) -> bool:
        """Wait a moment unless the wheel is verified; return whether it is. Raises ``_GoneError`` if uv shall stop."""
        with self._changed:
            if path not in self._verified and not self._is_stopped:
                self._changed.wait(_LOOK_EVERY_S)
            if self._is_stopped:
                raise _GoneError
            return path in self._verified

    def _open(self, path: Path) -> BinaryIO:
        partial = path.with_name(f"{path.name}.part")
        while not self._wait(path):
            # Windows can't rename a file that another thread reads
            if sys.platform != "win32" and partial.is_file():
                try:
                    return partial.open("rb")
                except FileNotFoundError:  # completed or given up in between
                    continue
        return path.open("rb")

    def _send(self, handler: BaseHTTPRequestHandler, path: Path) -> None:
        """Send the file in chunks, as it grows; stop if its download has started again."""
        sent = 0
        with self._open(path) as stream:
            handler.send_response(HTTPStatus.OK)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.send_header("Cache-Control", "max-age=31536000, immutable")
            handler.end_headers()
            while True:
                is_whole = self._wait(path)
                state = os.fstat(stream.fileno())
                if state.st_size < sent or (is_whole and state.st_ino != path.stat().st_ino):
                    raise _GoneError
                ready = state.st_size if is_whole else state.st_size - _HELD_BACK
                if ready > sent:
                    handler.wfile.write(b"%x\r\n" % (ready - sent))
                    handler.connection.sendfile(stream, sent, ready - sent)
                    handler.wfile.write(b"\r\n")
                    sent = ready
                if is_whole:
                    handler.wfile.write(b"0\r\n\r\n")
                    return

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        from http.server import BaseHTTPRequestHandler  # noqa: PLC0415 - as above

        relay = self
        wanted = f"Basic {base64.b64encode(f'uv:{self._password}'.encode()).decode()}"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            disable_nagle_algorithm = True  # the header of a chunk would wait for its acknowledgment

            def do_GET(self) -> None:
                path = relay._paths.get(self.path)
                if path is None or relay._is_stopped or self.headers.get("Proxy-Authorization") != wanted:
                    self.send_error(HTTPStatus.GONE)  # uv doesn't repeat such a request
                    return
                try:
                    relay._send(self, path)
                except (_GoneError, OSError):
                    self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
                """Keep stderr for envforge."""

        return Handler


class _GoneError(Exception):
    """The wheel won't be completed, or not by the bytes that were sent."""
