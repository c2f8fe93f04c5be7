"""Download the files of a plan that the cache lacks, and check the disk space that they need.

A file whose checksum differs is downloaded once more. A second mismatch stops the install and all other downloads. A
download resumes after an interruption and is hashed on the way. Errors name the locked URL; requests go to the mirror.
"""

from __future__ import annotations

import shutil
import threading
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Protocol

from msgspec import Struct, field

from envforge.base.files import file_lock, open_own, regular
from envforge.base.net import (
    REJECTED,
    TRANSIENT,
    Client,
    ConnectionLostError,
    NetworkError,
    Response,
    UntrustedError,
    credentials_hints,
    unreachable_hints,
)
from envforge.base.urls import Url, show_url
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.plan import Artifact, Digest
from envforge.prefix.cache import Store, Unpacked, digest_of, existing, hash_file, need_room, new_hasher
from envforge.prefix.values import InstallProgress, InstallRequest, Retry, Silent, Supply, progress_step

WORKERS = 8
_SIZE_WORKERS = 4
_BLOCK = 1 << 20  # a quarter of it costs 20 % more CPU time
_MOVED = Hint("if the file was removed or moved", "envforge lock")


class Fetched(Struct, frozen=True, kw_only=True):
    """A file with the locked checksum."""

    artifact: Artifact
    path: Path
    downloaded_bytes: int


class Receiver(Protocol):
    """User of files as soon as each is verified; its methods are called from several threads."""

    def has(self, artifact: Artifact) -> bool:
        """Return whether the file is not needed, because another process has unpacked it in the meantime."""

    def receive(self, item: Fetched) -> None:
        """Use a verified file; raise ``EnvforgeError`` to stop all downloads."""


def fetch_all(
    artifacts: tuple[Artifact, ...],
    store: Store,
    request: InstallRequest,
    progress: InstallProgress,
    receiver: Receiver | None = None,
) -> tuple[Fetched, ...]:
    """Bring every file into the cache; the first failure stops the other downloads."""
    if not artifacts:
        return ()
    store.create()
    with progress_step(progress, "downloading", None, "bytes"):
        missing = _missing(artifacts, store, request, progress)
        wire = open_wire(request, progress)
        job = _FetchRun(store=store, wire=wire, missing=frozenset(missing), receiver=receiver)
        for artifact in missing if request.offline else ():
            job.refuse_distant(artifact)
        return _run(job, artifacts, missing if request.estimate and not request.offline else ())


def _missing(
    artifacts: tuple[Artifact, ...], store: Store, request: InstallRequest, progress: InstallProgress
) -> tuple[Artifact, ...]:
    """Return what must be downloaded, and evict corrupt files."""
    # before it is hashed: another process may bring it in the meantime, and would lose it
    there = {artifact for artifact in artifacts if store.path(artifact).is_file()}
    with ThreadPoolExecutor(thread_name_prefix="hash") as pool:
        held = tuple(pool.map(lambda artifact: store.holds(artifact, reread=request.reread), artifacts))
    missing = tuple(artifact for artifact, is_held in zip(artifacts, held, strict=True) if not is_held)
    for artifact in missing:
        if artifact in there:
            progress.note(f"the cached file of `{artifact.label}` is corrupt; downloading it again")
            store.evict(artifact)
    return missing


def _run(job: _FetchRun, artifacts: tuple[Artifact, ...], unsized: tuple[Artifact, ...]) -> tuple[Fetched, ...]:
    stop = job.wire.stop
    sizes = ThreadPoolExecutor(_SIZE_WORKERS, thread_name_prefix="size")
    for artifact in unsized:
        sizes.submit(_announce, artifact, job.wire)
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch")
    try:
        futures = [pool.submit(job.fetch, artifact) for artifact in artifacts]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            stop.set()
        pool.shutdown(cancel_futures=stop.is_set())
        return tuple(_results(futures))
    except KeyboardInterrupt:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)  # a download may hang on a silent server
        raise
    finally:
        sizes.shutdown(wait=False, cancel_futures=True)


def sizes_of(
    artifacts: tuple[Artifact, ...], request: InstallRequest, progress: InstallProgress
) -> dict[Artifact, int]:
    """Return the sizes of files that the cache lacks, as far as the bundle, the mirror, or the server reports them."""
    wire = open_wire(request, Silent())
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="size")
    found = {}
    try:
        answers = pool.map(lambda artifact: size_of(artifact, wire, offline=request.offline), artifacts)
        with progress_step(progress, "reading file sizes", len(artifacts), "packages"):
            for artifact, size in zip(artifacts, answers, strict=True):
                progress.advance(1)
                if size is not None:
                    found[artifact] = size
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a server may be silent when the user interrupts
    for host, reason in sorted(wire.silent.items()):
        progress.note(f"warning: the sizes of files on `{host}` are unknown: {reason}")
    return found


def _announce(artifact: Artifact, wire: Wire) -> None:
    size = size_of(artifact, wire)
    if size is not None:
        wire.announce(artifact, size)


def open_wire(request: InstallRequest, progress: InstallProgress) -> Wire:
    """Return what the downloads of one request share."""
    return Wire(
        address=request.mirrors.to_mirror,
        retry=request.retry,
        progress=progress,
        stop=threading.Event(),
        client=Client(timeout_s=request.retry.timeout_s, connections=WORKERS, variables=request.access_variables),
        supply=request.supply,
    )


def _results(futures: list[Future[Fetched]]) -> list[Fetched]:
    """Return the results, or raise the failure that stopped the other downloads."""
    failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in failures:
        if not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]


class _FetchRun(Struct, frozen=True, kw_only=True):
    store: Store
    wire: Wire
    missing: frozenset[Artifact]
    receiver: Receiver | None

    def fetch(self, artifact: Artifact) -> Fetched:
        if self.wire.stop.is_set():
            raise Stopped
        path = self.store.path(artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        # installs of several processes share the cache, and download a file once
        with file_lock(path.with_name(f"{path.name}.lock")):
            # another install may have downloaded it, and also have unpacked and removed it
            if artifact in self.missing and not self.store.holds(artifact):
                if self.receiver is not None and self.receiver.has(artifact):
                    return Fetched(artifact=artifact, path=path, downloaded_bytes=0)
                partial = path.with_name(f"{path.name}.part")
                self._download(artifact, partial)
                self.store.keep(partial, artifact)
            item = Fetched(artifact=artifact, path=path, downloaded_bytes=self._received(artifact, path))
            if self.receiver is not None:
                self.receiver.receive(item)
        return item

    def _received(self, artifact: Artifact, path: Path) -> int:
        return path.stat().st_size if artifact in self.missing else 0

    def refuse_distant(self, artifact: Artifact) -> None:
        """Raise ``EnvforgeError`` for a file that only a server has."""
        if not self._is_near(artifact):
            raise _not_cached(artifact)

    def _is_near(self, artifact: Artifact) -> bool:
        supply = self.wire.supply
        held = supply is not None and supply.holds(artifact)
        return held or self.wire.address(artifact.package.url).startswith("file:")

    def _download(self, artifact: Artifact, partial: Path) -> None:
        """Download until ``partial`` is the locked file, and remove it if it isn't."""
        if partial.is_file() and digest_of(partial, artifact.digest) == artifact.digest:
            return
        found = download(artifact, partial, self.wire)
        if found != artifact.digest:
            # a resumed download may have joined parts of two files, so the second one starts from nothing
            self.wire.progress.note(f"checksum mismatch for `{artifact.label}`; downloading it again")
            partial.unlink()
            found = download(artifact, partial, self.wire)
        if found != artifact.digest:
            partial.unlink()
            raise _mismatch(artifact, found)


def _not_cached(artifact: Artifact) -> EnvforgeError:
    return OutsideError(
        f"`{artifact.label}` is not in the cache, and can't be downloaded from "
        f"`{show_url(artifact.package.url)}` because `--offline` was provided",
        hint=(
            Hint("to download it, omit `--offline`"),
            Hint("to read it from a directory that contains it, pass `--mirror FROM=file:///DIR`"),
        ),
        code="not-cached",
    )


def _mismatch(artifact: Artifact, found: Digest) -> EnvforgeError:
    return OutsideError(
        f"checksum mismatch for `{artifact.label}`\n"
        f"  URL:      `{show_url(artifact.package.url)}`\n"
        f"  expected: `{artifact.digest}` (lockfile)\n"
        f"  found:    `{found}` (downloaded twice)",
        hint=(
            Hint("find out why the file changed before you install it"),
            Hint("if the publisher replaced it", "envforge lock"),
        ),
        code="checksum-mismatch",
    )


class Stopped(Exception):  # noqa: N818 - not an error: another download failed
    """Another download failed, so this one stopped."""


class _Again(Exception):  # noqa: N818 - a request to retry
    """A response that may be better next time."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Wire(Struct, frozen=True, kw_only=True):
    """State shared by all downloads of one install. ``address`` maps a locked URL to the URL to request.

    ``silent`` are the hosts that did not respond to a request for a size, with the reason; they get no second one.
    """

    address: Callable[[str], str]
    retry: Retry
    progress: InstallProgress
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
                raise _failed(artifact, url, reason, _hints_interrupted(error, partial, url)) from error
            # a delay of 0 is that of a test, which shall not wait for the server's `Retry-After`
            wait_s = delay if delay == 0 or not isinstance(error, _Again) else max(delay, error.wait_s)
            if wire.stop.wait(wait_s):
                raise Stopped from error


def _copy(source: Path, url: str, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    try:
        with regular(source).open("rb") as stream:
            return _write(stream, source.stat().st_size, artifact, partial, wire)
    except FileNotFoundError as error:
        is_mirror = url != artifact.package.url
        raise _failed(artifact, url, "the file does not exist", () if is_mirror else (_MOVED,)) from error


def _write(stream: BinaryIO, size: int, artifact: Artifact, partial: Path, wire: Wire) -> Digest:
    """Copy a local file or a bundled package to ``partial``."""
    hasher = new_hasher(artifact.digest)
    _need_room(partial, size)
    wire.expect(artifact, size)
    partial.unlink(missing_ok=True)  # the relay may have sent it, and recognizes another file by its inode
    with open_own(partial, "wb") as target:
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
        # the server's file has no byte after those that are here, so they aren't its beginning
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
    # proxies and login pages answer with 200
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
    with open_own(partial, "ab") as target:
        if target.tell():
            hash_file(str(partial), hasher)
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
        return credentials_hints(artifact.package.url, url)
    if url != artifact.package.url:
        return ()
    if status == HTTPStatus.NOT_FOUND:
        return (_MOVED, mirror)
    return (mirror,)


def _hints_interrupted(error: Exception, partial: Path, url: str) -> tuple[Hint, ...]:
    """Return what helps after the last attempt; nothing if the server was never reached."""
    if isinstance(error, UntrustedError):
        return unreachable_hints("", url, error)
    if partial.is_file() and partial.stat().st_size:
        return (Hint("to continue the interrupted download, run this command again"),)
    if isinstance(error, _Again):
        return (Hint("run this command again later"), Hint("to download it from a mirror, pass `--mirror FROM=TO`"))
    return ()


_PLENTY = 20  # packages unpack to 2 to 6 times their size, so with this much free space no sizes have to be read


def check_room(item: Fetched, store: Store) -> None:
    """Raise ``OutsideError`` if unpacking an archive would fill the disk of the cache."""
    if shutil.disk_usage(store.root).free < _PLENTY * item.path.stat().st_size:
        need_room(store.root, unpacked_bytes(item.path), f"in `{store.root}` to unpack `{item.path.name}`")


def check_room_to_copy(unpacked: Iterable[Unpacked | None], prefix: Path, store: Store) -> None:
    """Raise ``OutsideError`` if copying packages into the prefix would fill its disk.

    Files are linked, not copied, if the cache and the prefix are on the same disk.
    """
    if _device(store.root) != _device(prefix):
        total = sum(each.unpacked_bytes for each in unpacked if each is not None)
        where = f"in `{existing(prefix)}` to copy the packages into the environment"
        need_room(prefix, total, f"{where}, which is on another disk than the cache")


def unpacked_bytes(path: Path) -> int:
    """Return the unpacked size of a package in bytes, or its own size if it doesn't state one."""
    try:
        if path.name.endswith(".whl"):
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist())
        if path.name.endswith(".conda"):
            import rattler  # noqa: PLC0415 - only if the disk is almost full

            return sum(entry.size_in_bytes or 0 for entry in rattler.PathsJson.from_package_archive(path).paths)
    except Exception:  # noqa: BLE001, S110 - unpacking reports why a package is not readable
        pass
    return path.stat().st_size


def _device(path: Path) -> int:
    return existing(path).stat().st_dev
