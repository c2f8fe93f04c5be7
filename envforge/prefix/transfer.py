"""Download one file: resume it after an interruption, retry with increasing delays, and hash it on the way.

Errors name the locked URL; requests go to the mirror.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    TimeoutError,  # noqa: A004 - the library's own name
)
from urllib3.response import BaseHTTPResponse

from envforge.base.net import (
    basic,
    expand,
    from_keyring,
    from_netrc,
    open_pool,
    split_credentials,
    unreachable_hints,
    without_credentials,
)
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.plan import Artifact, Digest
from envforge.prefix.cache import new_hasher
from envforge.prefix.values import Progress, Retry, Supply

WORKERS = 8
_BLOCK = 1 << 18
_REPEATED = {304, 408, 425, 429, 500, 502, 503, 504}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_LONGEST_WAIT_S = 60.0
_REASONS: dict[type[Exception], str] = {  # the first that matches is used, so a subclass comes before its base
    ProxyError: "could not connect to the proxy",
    NameResolutionError: "could not find the host (no DNS response for its name)",
    NewConnectionError: "could not connect to the host",
    TimeoutError: "the server did not respond in time",
    ProtocolError: "the connection was closed before the server responded",
}
_MOVED = Hint("if the file was removed or moved", "envforge lock")


class Stopped(Exception):  # noqa: N818 - not an error: another download failed
    """Another download failed, so this one stopped."""


class _Again(Exception):  # noqa: N818 - a request to retry
    """A response that may be better next time."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """State shared by all downloads of one install. ``address`` maps a locked URL to the URL to request.

    ``silent`` are the hosts that did not respond to a request for a size, with the reason; they get no second one.
    """

    address: Callable[[str], str]
    retry: Retry
    progress: Progress
    stop: threading.Event
    pools: dict[str, urllib3.PoolManager]
    guard: threading.Lock
    supply: Supply | None = None
    expected: dict[Artifact, int] = field(default_factory=dict)
    received: dict[Artifact, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def expect(self, artifact: Artifact, more: int) -> None:
        """Set the expected total of a file to what was received in all attempts plus ``more`` bytes."""
        with self.guard:
            total = self.received.get(artifact, 0) + more
            self.progress.enlarge(total - self.expected.get(artifact, 0))
            self.expected[artifact] = total

    def announce(self, artifact: Artifact, size: int) -> None:
        """Add the size of a file to the total of the progress, unless its download has started."""
        with self.guard:
            if artifact not in self.expected:
                self.expected[artifact] = size
                self.progress.enlarge(size)

    def receive(self, artifact: Artifact, amount: int) -> None:
        """Add to the bytes received of a file; each file belongs to one thread."""
        self.received[artifact] = self.received.get(artifact, 0) + amount
        self.progress.advance(amount)

    def get(self, url: str, headers: dict[str, str], method: str = "GET") -> BaseHTTPResponse:
        """Request a file; if the server rejects the request, repeat it with credentials from the keyring."""
        clean, given = split_credentials(expand(url, os.environ))
        parts = urlsplit(clean)
        known = given or from_netrc(parts.hostname or "", os.environ)
        response = self._send(method, clean, {**headers, **basic(known)})
        if known is None and response.status in _REFUSED and (known := from_keyring(parts)) is not None:
            response.drain_conn()
            response = self._send(method, clean, {**headers, **basic(known)})
        return response

    def _send(self, method: str, url: str, headers: dict[str, str]) -> BaseHTTPResponse:
        parts = urlsplit(url)
        with self.guard:
            key = f"{parts.scheme}://{parts.netloc}"
            pool = self.pools.get(key) or self.pools.setdefault(key, open_pool(url, WORKERS))
        return pool.request(
            method,
            url,
            headers={"Accept-Encoding": "identity", "User-Agent": "envforge", **headers},
            preload_content=False,
            redirect=True,
            retries=urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0),
            timeout=self.retry.timeout_s,
        )


def size_of(artifact: Artifact, wire: Wire, *, offline: bool = False) -> int | None:
    """Return the size of a file without downloading it; None if it is unknown."""
    if wire.supply is not None and wire.supply.holds(artifact):
        with wire.supply.open(artifact) as (_, size):
            return size
    url = wire.address(artifact.package.url)
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        return path.stat().st_size if path.is_file() else None
    host = urlsplit(url).netloc.rpartition("@")[2]
    if offline or wire.stop.is_set() or host in wire.silent:
        return None
    try:
        response = wire.get(url, {}, "HEAD")
    except HTTPError as error:
        wire.silent[host] = _reason(error)
        return None
    response.release_conn()
    return _promised(response) if response.status == HTTPStatus.OK else None


def download(artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    """Download the file of ``artifact`` to ``partial`` and return its checksum; an interrupted download is resumed.

    Raises ``OutsideError`` if all retries failed, or if a retry can't help.
    """
    if wire.supply is not None and wire.supply.holds(artifact):
        with wire.supply.open(artifact) as (stream, size):
            return _write(stream, size, artifact, partial, wire)
    url = wire.address(artifact.package.url)
    delays = iter(wire.retry.delays_s)
    while True:
        try:
            return (
                _copy(url, artifact, partial, wire) if url.startswith("file:") else _ask(url, artifact, partial, wire)
            )
        except (_Again, HTTPError) as error:  # noqa: PERF203 - the network is slower
            reason = _reason(error)
            delay = next(delays, None)
            if delay is None:
                times = 1 + len(wire.retry.delays_s)
                reason += f" (tried {times} times)" * (times > 1)
                raise _failed(artifact, url, reason, _hints_interrupted(error, partial)) from error
            wait_s = delay if delay == 0 or not isinstance(error, _Again) else max(delay, error.wait_s)
            if wire.stop.wait(min(wait_s, _LONGEST_WAIT_S)):
                raise Stopped from error


def _copy(url: str, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    source = Path(unquote(urlsplit(url).path))
    try:
        with source.open("rb") as stream:
            return _write(stream, source.stat().st_size, artifact, partial, wire)
    except FileNotFoundError as error:
        is_mirror = url != artifact.package.url
        raise _failed(artifact, url, "the file does not exist", () if is_mirror else (_MOVED,)) from error


def _write(stream: BinaryIO, size: int, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    """Copy a local file or a bundled package to ``partial``."""
    hasher = new_hasher(artifact.digest)
    _need_room(partial, size)
    wire.expect(artifact, size)
    with partial.open("wb") as target:
        while block := stream.read(_BLOCK):
            _go_on(wire)
            target.write(block)
            hasher.update(block)
            wire.receive(artifact, len(block))
    return Digest(algorithm=artifact.digest.algorithm, hex=hasher.hexdigest())


def _ask(url: str, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    have = partial.stat().st_size if partial.exists() else 0
    response = wire.get(url, {"Range": f"bytes={have}-"} if have else {})
    try:
        if have and response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()
            raise _Again("the server can't continue the interrupted download")
        _accept(response, artifact, url)
        if have and not _continues(response, have):
            partial.unlink()
        promised = _promised(response) or 0
        _need_room(partial, promised)
        wire.expect(artifact, promised)
        return _receive(response, artifact, partial, wire)
    finally:
        response.close()


def _need_room(partial: Path, wanted: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < wanted:
        raise OutsideError(
            f"not enough disk space for `{partial.name.removesuffix('.part')}` in the cache `{partial.parents[3]}`: "
            f"expected {wanted / 1e6:.0f} MB, found {free / 1e6:.0f} MB",
            hint=(
                Hint("to remove cached packages", "envforge clean"),
                Hint("to put the cache on another disk, pass `--cache DIR`"),
            ),
            code="disk-full",
        )


def _accept(response: BaseHTTPResponse, artifact: Artifact, url: str) -> None:
    """Raise if a response is not the requested file."""
    said = f"the server returned {response.status} {response.reason or ''}".rstrip()
    if response.status in _REPEATED:
        raise _Again(said, _retry_after(response))
    if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise _failed(artifact, url, said, _hints_refused(response.status, artifact, url))
    if "text/html" in response.headers.get("Content-Type", ""):
        said = "the server returned a web page (text/html) instead of the file"
        raise _failed(artifact, url, said, _hints_refused(response.status, artifact, url))


def _continues(response: BaseHTTPResponse, have: int) -> bool:
    if response.status == HTTPStatus.OK:
        return False
    found = response.headers.get("Content-Range", "")
    if not found.startswith(f"bytes {have}-"):
        raise _Again(f"the server returned another part of the file than requested: `{found}`")
    return True


def _retry_after(response: BaseHTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _promised(response: BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _receive(response: BaseHTTPResponse, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    """Append the body to ``partial``; a short body is accepted only if it completes the file."""
    hasher, received, broken = new_hasher(artifact.digest), 0, False
    with partial.open("ab") as target:
        if target.tell():
            with partial.open("rb") as before:
                shutil.copyfileobj(before, _Sink(hasher), _BLOCK)
        try:
            while block := response.read(_BLOCK, decode_content=False):
                _go_on(wire)
                target.write(block)
                hasher.update(block)
                received += len(block)
                wire.receive(artifact, len(block))
        except ProtocolError:
            broken = True
    found = Digest(algorithm=artifact.digest.algorithm, hex=hasher.hexdigest())
    promised = _promised(response)
    if found != artifact.digest and (broken or promised not in {None, received}):
        raise _Again(f"the connection was closed after {received} of {promised or 'unknown'} bytes")
    return found


@dataclass(frozen=True, slots=True)
class _Sink:
    """Adapter with which ``shutil.copyfileobj`` writes to a hash object."""

    hasher: Any

    def write(self, block: bytes) -> int:
        self.hasher.update(block)
        return len(block)


def _go_on(wire: Wire) -> None:
    if wire.stop.is_set():
        raise Stopped


def _reason(error: Exception) -> str:
    if isinstance(error, _Again):
        return str(error)
    if isinstance(error, MaxRetryError) and error.reason is not None:
        return _reason(error.reason)
    found = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), None)
    return found or f"could not connect ({type(error).__name__})"


def _failed(artifact: Artifact, url: str, reason: str, hints: Iterable[Hint] = ()) -> EnvforgeError:
    shown = without_credentials(artifact.package.url)
    asked = without_credentials(url)
    through = f" (through `{asked}`)" if asked != shown else ""
    return OutsideError(
        f"failed to download `{artifact.label}` from `{shown}`{through}: {reason}",
        hint=tuple(hints) or unreachable_hints(shown, asked),
        code="download-failed",
    )


def _hints_refused(status: int, artifact: Artifact, url: str) -> tuple[Hint, ...]:
    """Return what helps if the server responded, but not with the file; nothing if a mirror lacks it."""
    mirror = Hint("to download it from a mirror, pass `--mirror FROM=TO`")
    if status in _REFUSED:
        return (Hint(f"add credentials for `{urlsplit(url).hostname}` to `~/.netrc` or the keyring"),)
    if url != artifact.package.url:
        return ()
    if status == HTTPStatus.NOT_FOUND:
        return (_MOVED, mirror)
    return (mirror,)


def _hints_interrupted(error: Exception, partial: Path) -> tuple[Hint, ...]:
    """Return what helps after the last attempt; nothing if the server was never reached."""
    if partial.is_file() and partial.stat().st_size:
        return (Hint("to continue the interrupted download, run this command again"),)
    if isinstance(error, _Again):
        return (Hint("run this command again later"), Hint("to download it from a mirror, pass `--mirror FROM=TO`"))
    return ()
