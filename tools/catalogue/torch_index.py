"""Write a PyTorch index of recorded wheels as static files: PEP 503 pages and PEP 658 metadata.

Any HTTP file server can serve the directory; mirror rules direct the public URLs to it. It contains no wheels, because
a solver reads only pages and metadata.

    folder/whl/cu118/torch/index.html
    folder/whl/cu118/torch-2.7.1+cu118-….whl.metadata
    folder/packages/ab/cd/…/triton-….whl.metadata
"""

from __future__ import annotations

import functools
import hashlib
import html
import threading
from collections.abc import Iterable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from envforge.base.urls import Mirrors
from envforge.catalogue.index import PLACEHOLDER
from tools.catalogue.wheels import INDEX, Wheel, by_directory

CHANNEL = "https://conda.anaconda.org/conda-forge"


def write_torch_index(folder: Path, directory: str, wheels: Iterable[Wheel]) -> None:
    """Write the pages of one index directory, for example ``cu118``, and the metadata of its wheels."""
    wheels = tuple(wheels)
    for project, rows in by_directory(wheels, directory).items():
        page = folder / "whl" / project / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_page(project, rows), encoding="utf-8")
    for wheel in wheels:
        path = folder / (unquote(urlsplit(wheel.url).path).lstrip("/") + ".metadata")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wheel.metadata, encoding="utf-8")


def mirrors_to(server_url: str) -> Mirrors:
    """Return the rules that direct the public URLs of both indexes and the channel to the directory's server."""
    return Mirrors(
        (
            (INDEX, f"{server_url}/whl"),
            (PLACEHOLDER.rstrip("/"), f"{server_url}/packages"),
            (CHANNEL, f"{server_url}/conda-forge"),
        )
    )


class FolderServer:
    """A server for a directory, on a free port of 127.0.0.1, for the duration of a ``with`` block."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_SilentHandler, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The URL of the directory."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FolderServer:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Discard the message."""


def _page(project: str, wheels: Iterable[Wheel]) -> str:
    rows = []
    for wheel in wheels:
        metadata = hashlib.sha256(wheel.metadata.encode()).hexdigest()
        python = f' data-requires-python="{html.escape(wheel.requires.python)}"' if wheel.requires.python else ""
        rows.append(
            f'<a href="{html.escape(wheel.url)}#sha256={wheel.sha256}" data-dist-info-metadata="sha256={metadata}" '
            f'data-core-metadata="sha256={metadata}"{python}>{html.escape(wheel.file_name)}</a><br/>'
        )
    title = html.escape(project.rsplit("/", 1)[-1])
    return "\n".join(["<!DOCTYPE html>", f"<html><body><h1>Links for {title}</h1>", *rows, "</body></html>", ""])
