"""Serve the lock-time indexes of all platforms on 127.0.0.1 during one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.utils import parse_wheel_filename

from envforge.errors import EnvforgeError
from envforge.lock.index import Offer, PlatformIndex

if TYPE_CHECKING:
    from typing_extensions import Self


class LockTimeIndex:
    """Serve the indexes of all platforms during a ``with`` block; ``fault`` is the first error."""

    def __init__(self, platforms: Mapping[str, PlatformIndex]) -> None:
        self._platforms = dict(platforms)
        self._faults: list[EnvforgeError] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The start of the URL of all pages and files."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def simple(self, platform: str) -> str:
        """Return the URL of the index for one platform."""
        return f"{self.url}/{platform}/simple"

    def offer(self, url: str) -> Offer | None:
        """Return the public file of a loopback URL, or ``None`` for any other URL."""
        parts = urlsplit(url).path.split("/")
        if not url.startswith(f"{self.url}/") or len(parts) != 5 or parts[2] != "files":
            return None
        return self._platforms[parts[1]].offers.get(parts[3])

    @property
    def fault(self) -> EnvforgeError | None:
        """The first error of a request; conda-lock itself only finds that a page is missing."""
        return self._faults[0] if self._faults else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> bytes | None:
        parts = path.strip("/").split("/")
        platform = self._platforms.get(parts[0])
        if platform is None or len(parts) < 3:
            return None
        try:
            if parts[1] == "simple":
                page = platform.page(parts[2])
                return None if page is None else page.encode()
            if parts[1] == "stand-in":
                return _stand_in_metadata(parts[2].removesuffix(".metadata"))
            return platform.metadata(parts[2])
        except EnvforgeError as error:
            self._faults.append(error)
            return None


def _handler(answer: Callable[[str], bytes | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answer(unquote(urlsplit(self.path).path))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
            """Print nothing; errors are kept in ``fault``."""

    return Handler


def _stand_in_metadata(file_name: str) -> bytes:
    name, version, _, _ = parse_wheel_filename(file_name)
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n".encode()
