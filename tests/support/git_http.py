"""Serve git repositories over HTTP on the loopback interface, with git's own server program.

    with GitServer(folder) as server: ...        # the repository `folder/x` is `server.url`/x

A request for a path in ``pages`` returns that text as HTML; any other path without a repository returns 404. With
``login``, a request without this user and password (`USER:PASSWORD`) returns 401.
"""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self


class GitServer:
    """Runs ``git http-backend`` for each request, as a web server runs a CGI program."""

    def __init__(self, folder: Path, pages: dict[str, str] | None = None, login: str = "") -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, pages or {}, login))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """The address of the folder, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(folder: Path, pages: dict[str, str], login: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            url = urlsplit(self.path)
            name = url.path.strip("/").split("/")[0]
            if name in pages:
                self._answer(200, {"Content-Type": "text/html"}, pages[name].encode())
                return
            stated = self.headers.get("Authorization", "").removeprefix("Basic ")
            if login and stated != base64.b64encode(login.encode()).decode():
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
                return
            done = subprocess.run(
                ["git", "http-backend"],
                env={**os.environ, **self._variables(url.path, url.query)},
                input=self.rfile.read(int(self.headers.get("Content-Length", 0))),
                capture_output=True,
                check=False,  # it says no with an exit code too, and what it says is the answer
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self._answer(int(fields.pop("Status", "200").split()[0]), fields, body)

        def _variables(self, path: str, query: str) -> dict[str, str]:
            return {
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_ADDR": "127.0.0.1",
                **({"REMOTE_USER": login.partition(":")[0]} if login else {}),  # git accepts a push of a known user
            }

        def _answer(self, status: int, fields: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name in the base class
            """Say nothing."""

    return Handler
