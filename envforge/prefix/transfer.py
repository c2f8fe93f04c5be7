"""Download one file: resume it after an interruption, retry with increasing delays, and hash it on the way.

Errors name the locked URL; requests go to the mirror.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from envforge.base.net import (
    REJECTED,
    TRANSIENT,
    Client,
    ConnectionLostError,
    NetworkError,
    Response,
    unreachable_hints,
)
from envforge.base.urls import Url, show_url
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.plan import Artifact, Digest
from envforge.prefix.cache import need_room, new_hasher
from envforge.prefix.values import Progress, Retry, Supply

WORKERS = 8
_BLOCK = 1 << 18
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
    client: Client
    guard: threading.Lock = field(default_factory=threading.Lock)
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

    def get(self, url: str, headers: dict[str, str], method: str = "GET") -> Response:
        """Request a file; raise ``NetworkError`` if there is no response."""
        try:
            return self.client.send(url, headers, method)
        except ValueError as error:
            raise NetworkError(f"the URL is not valid: {error}") from error


def size_of(artifact: Artifact, wire: Wire, *, offline: bool = False) -> int | None:
    """Return the size of a file without downloading it; None if it is unknown."""
    if wire.supply is not None and wire.supply.holds(artifact):
        with wire.supply.open(artifact) as (_, size):
            return size
    url = wire.address(artifact.package.url)
    local = _local(url)
    if local is not None:
        return local.stat().st_size if local.is_file() else None
    host = _host(url)
    if offline or wire.stop.is_set() or host in wire.silent:
        return None
    try:
        response = wire.get(url, {}, "HEAD")
    except NetworkError as error:
        wire.silent[host] = str(error)
        return None
    response.close()
    return response.length if response.status == HTTPStatus.OK else None


def _local(url: str) -> Path | None:
    """Return the path of a ``file:`` URL; None for any other."""
    try:
        return Url.parse(url).file_path
    except ValueError:
        return None


def _host(url: str) -> str:
    """Return the host and the port of a URL, for messages."""
    try:
        return Url.parse(url).origin.partition("://")[2]
    except ValueError:
        return show_url(url)


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
            local = _local(url)
            return _ask(url, artifact, partial, wire) if local is None else _copy(local, url, artifact, partial, wire)
        except (_Again, NetworkError) as error:  # noqa: PERF203 - the network is slower
            reason = str(error)
            delay = next(delays, None)
            if delay is None:
                times = 1 + len(wire.retry.delays_s)
                reason += f" (tried {times} times)" * (times > 1)
                raise _failed(artifact, url, reason, _hints_interrupted(error, partial)) from error
            wait_s = delay if delay == 0 or not isinstance(error, _Again) else max(delay, error.wait_s)
            if wire.stop.wait(wait_s):
                raise Stopped from error


def _copy(source: Path, url: str, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
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
        promised = response.length or 0
        _need_room(partial, promised)
        wire.expect(artifact, promised)
        return _receive(response, artifact, partial, wire)
    finally:
        response.close()


def _need_room(partial: Path, wanted: int) -> None:
    name = partial.name.removesuffix(".part")
    need_room(partial.parent, wanted, f"for `{name}` in the cache `{partial.parents[3]}`")


def _accept(response: Response, artifact: Artifact, url: str) -> None:
    """Raise if a response is not the requested file."""
    said = f"the server returned {response.summary}"
    if response.status in TRANSIENT:
        raise _Again(said, response.retry_after_s)
    if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise _failed(artifact, url, said, _hints_refused(response.status, artifact, url))
    if "text/html" in response.header("Content-Type"):
        said = "the server returned a web page (text/html) instead of the file"
        raise _failed(artifact, url, said, _hints_refused(response.status, artifact, url))


def _continues(response: Response, have: int) -> bool:
    if response.status == HTTPStatus.OK:
        return False
    found = response.header("Content-Range")
    if not found.startswith(f"bytes {have}-"):
        raise _Again(f"the server returned another part of the file than requested: `{found}`")
    return True


def _receive(response: Response, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    """Append the body to ``partial``; a short body is accepted only if it completes the file."""
    hasher, received, broken = new_hasher(artifact.digest), 0, False
    with partial.open("ab") as target:
        if target.tell():
            with partial.open("rb") as before:
                shutil.copyfileobj(before, _Sink(hasher), _BLOCK)
        try:
            while block := response.read(_BLOCK):
                _go_on(wire)
                target.write(block)
                hasher.update(block)
                received += len(block)
                wire.receive(artifact, len(block))
        except ConnectionLostError:
            broken = True
    found = Digest(algorithm=artifact.digest.algorithm, hex=hasher.hexdigest())
    promised = response.length
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


def _failed(artifact: Artifact, url: str, reason: str, hints: Iterable[Hint] = ()) -> EnvforgeError:
    shown = show_url(artifact.package.url)
    asked = show_url(url)
    through = f" (through `{asked}`)" if asked != shown else ""
    return OutsideError(
        f"failed to download `{artifact.label}` from `{shown}`{through}: {reason}",
        hint=tuple(hints) or unreachable_hints(shown, asked),
        code="download-failed",
    )


def _hints_refused(status: int, artifact: Artifact, url: str) -> tuple[Hint, ...]:
    """Return what helps if the server responded, but not with the file; nothing if a mirror lacks it."""
    mirror = Hint("to download it from a mirror, pass `--mirror FROM=TO`")
    if status in REJECTED:
        return (Hint(f"add credentials for `{_host(url).partition(':')[0]}` to `~/.netrc` or the keyring"),)
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
