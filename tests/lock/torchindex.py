"""A PyTorch-style package index for tests, in the layout of download.pytorch.org, served by ``tests.support.loopback``.

    index = TorchIndex()
    index.add("cu118", wheel("torch", "2.7.1+cu118", tag="cp310-cp310-manylinux_2_28_x86_64"))
    with Loopback(index.answer) as server: ...

Each entry can leave out or misstate what the real index leaves out or misstates.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from msgspec import Struct
from packaging.utils import canonicalize_name

from tests.support.loopback import Request, Response

PUBLIC = "https://download.pytorch.org/whl"


class Wheel(Struct, frozen=True, kw_only=True):
    """A wheel with its bytes; ``data`` empty stands for one that nobody may fetch, with the sha256 of the real file."""

    name: str
    version: str
    file_name: str
    metadata: bytes
    data: bytes = b""
    stated_sha256: str | None = None

    @property
    def sha256(self) -> str:
        return self.stated_sha256 or hashlib.sha256(self.data).hexdigest()


Texts = tuple[str, ...] | list[str]


def metadata(name: str, version: str, requires: Texts = (), python: str = "", extras: Texts = ()) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    return "\n".join([*lines, *(f"Requires-Dist: {text}" for text in requires), "", ""]).encode()


def wheel(
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Texts = (),
    python: str = "",
    extras: Texts = (),
) -> Wheel:
    """A real wheel, small, the same bytes each time."""
    stem = f"{name.replace('-', '_')}-{version}"
    text = metadata(name, version, requires, python, extras)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        parts = {
            f"{name.replace('-', '_')}/__init__.py": f"version = {version!r}\n".encode(),
            f"{name.replace('-', '_')}/large.bin": bytes(200_000),
            f"{stem}.dist-info/METADATA": text,
            f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
            f"{stem}.dist-info/RECORD": b"",
        }
        for path, data in parts.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return Wheel(name=name, version=version, file_name=f"{stem}-{tag}.whl", metadata=text, data=stream.getvalue())


class Entry(Struct, frozen=True, kw_only=True):
    """A wheel on a page. ``href`` replaces the relative link; ``sha256`` is stated unless ``None``."""

    wheel: Wheel
    sha256: str | None
    has_metadata: bool = True
    href: str | None = None


@dataclass
class TorchIndex:
    """Pages by (tag, name), and files by path. A tag that is not there answers 403, as the real one does."""

    pages: dict[tuple[str, str], list[Entry]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, tag: str, *wheels: Wheel, **changes: object) -> None:
        """Offer wheels under a tag; ``changes`` are fields of ``Entry``."""
        for one in wheels:
            entry = Entry(**{"wheel": one, "sha256": one.sha256, **changes})  # type: ignore[arg-type]
            self.pages.setdefault((tag, canonicalize_name(one.name)), []).append(entry)
            path = f"/whl/{tag}/{one.file_name}"
            if one.data:
                self.files[path] = one.data
            if entry.has_metadata:
                self.files[f"{path}.metadata"] = one.metadata

    def answer(self, request: Request) -> Response | None:
        path = unquote(request.path)
        if path in self.files:
            return Response(body=self.files[path], headers={"Content-Type": "application/octet-stream"})
        parts = path.strip("/").split("/")
        tags = {tag for tag, _ in self.pages}
        if len(parts) != 3 or parts[0] != "whl" or parts[1] not in tags:
            return Response(body=b"<Error><Code>AccessDenied</Code></Error>", status=403)
        entries = self.pages.get((parts[1], parts[2]))
        if entries is None:
            return Response(body=b"<Error><Code>AccessDenied</Code></Error>", status=403)
        rows = "\n".join(_row(parts[1], entry) for entry in entries)
        page = f"<!DOCTYPE html><html><body><h1>Links for {parts[2]}</h1>\n{rows}\n</body></html>"
        return Response(body=page.encode(), headers={"Content-Type": "text/html"})


def _row(tag: str, entry: Entry) -> str:
    href = entry.href or f"/whl/{tag}/{quote(entry.wheel.file_name)}"
    fragment = f"#sha256={entry.sha256}" if entry.sha256 else ""
    digest = hashlib.sha256(entry.wheel.metadata).hexdigest()
    attribute = (
        f' data-dist-info-metadata="sha256={digest}" data-core-metadata="sha256={digest}"' if entry.has_metadata else ""
    )
    return f'<a href="{href}{fragment}"{attribute}>{entry.wheel.file_name}</a><br/>'


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
