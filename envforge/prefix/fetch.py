"""Download the files of a plan that the cache lacks, and check the disk space that they need.

A file whose checksum differs is downloaded once more. A second mismatch stops the install and all other downloads.
"""

from __future__ import annotations

import shutil
import threading
import zipfile
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from envforge.base.net import Client
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.plan import Artifact, Digest, record_name
from envforge.prefix.cache import Store, digest_of, existing, need_room
from envforge.prefix.transfer import WORKERS, Stopped, Wire, download, size_of
from envforge.prefix.values import InstallRequest, Progress, Silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file with the locked checksum."""

    artifact: Artifact
    path: Path
    downloaded_bytes: int


def fetch_all(
    artifacts: tuple[Artifact, ...],
    store: Store,
    request: InstallRequest,
    progress: Progress,
) -> tuple[Fetched, ...]:
    """Bring every file into the cache."""
    progress.begin("downloading", None, "bytes")
    try:
        missing = tuple(_missing(artifacts, store, request, progress))
        fetched: dict[Artifact, int] = {}
        if missing:
            fetched = download_all(missing, store, request, progress)
    finally:
        progress.end()
    return tuple(
        Fetched(artifact=artifact, path=store.path(artifact), downloaded_bytes=fetched.get(artifact, 0))
        for artifact in artifacts
    )


def _missing(
    artifacts: tuple[Artifact, ...], store: Store, request: InstallRequest, progress: Progress
) -> Iterable[Artifact]:
    """Yield what must be downloaded, and evict corrupt files."""
    with ThreadPoolExecutor(thread_name_prefix="hash") as pool:
        held = pool.map(lambda artifact: store.holds(artifact, reread=request.reread), artifacts)
        for artifact, is_held in zip(artifacts, held, strict=True):
            if is_held:
                continue
            if store.path(artifact).is_file():
                progress.note(f"the cached file of `{artifact.label}` is corrupt; downloading it again")
                store.evict(artifact)
            yield artifact


_SIZE_WORKERS = 4


def download_all(
    artifacts: tuple[Artifact, ...], store: Store, request: InstallRequest, progress: Progress
) -> dict[Artifact, int]:
    """Download files into the cache and return their sizes in bytes; the first failure stops the other downloads."""
    store.create()
    wire = open_wire(request, progress)
    sizes = ThreadPoolExecutor(_SIZE_WORKERS, thread_name_prefix="size")
    if request.estimate and not request.offline:
        for artifact in artifacts:
            sizes.submit(_announce, artifact, wire)
    job = _Job(store=store, wire=wire, offline=request.offline)
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch")
    try:
        futures = [pool.submit(job.fetch, artifact) for artifact in artifacts]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            wire.stop.set()
        pool.shutdown(cancel_futures=wire.stop.is_set())
        return dict(zip(artifacts, _results(futures), strict=True))
    except KeyboardInterrupt:
        wire.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)  # a download may hang on a silent server
        raise
    finally:
        sizes.shutdown(wait=False, cancel_futures=True)


def sizes_of(artifacts: tuple[Artifact, ...], request: InstallRequest, progress: Progress) -> dict[Artifact, int]:
    """Return the sizes of files that the cache lacks, as far as the bundle, the mirror, or the server reports them."""
    wire = open_wire(request, Silent())
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="size")
    progress.begin("reading file sizes", len(artifacts), "packages")
    found = {}
    try:
        answers = pool.map(lambda artifact: size_of(artifact, wire, offline=request.offline), artifacts)
        for artifact, size in zip(artifacts, answers, strict=True):
            progress.advance(1)
            if size is not None:
                found[artifact] = size
    finally:
        progress.end()
        pool.shutdown(wait=False, cancel_futures=True)  # a server may be silent when the user interrupts
    for host, reason in sorted(wire.silent.items()):
        progress.note(f"warning: the sizes of files on `{host}` are unknown: {reason}")
    return found


def _announce(artifact: Artifact, wire: Wire) -> None:
    size = size_of(artifact, wire)
    if size is not None:
        wire.announce(artifact, size)


def open_wire(request: InstallRequest, progress: Progress) -> Wire:
    """Return what the downloads of one request share."""
    return Wire(
        address=request.mirrors.to_mirror,
        retry=request.retry,
        progress=progress,
        stop=threading.Event(),
        client=Client(timeout_s=request.retry.timeout_s, connections=WORKERS),
        supply=request.supply,
    )


def _results(futures: list[Future[int]]) -> list[int]:
    """Return the results, or raise the failure that stopped the other downloads."""
    failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in failures:
        if not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    store: Store
    wire: Wire
    offline: bool

    def fetch(self, artifact: Artifact) -> int:
        if self.wire.stop.is_set():
            raise Stopped
        if self.offline and not self._is_near(artifact):
            raise _not_cached(artifact)
        path = self.store.path(artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not self.store.holds(artifact):  # another install may have downloaded it
                self._download(artifact, partial)
                self.store.keep(partial, artifact)
        return path.stat().st_size

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


_PLENTY = 20  # packages unpack to 2 to 6 times their size, so with this much free space no sizes have to be read


def check_room(fetched: Iterable[Fetched], prefix: Path, store: Store) -> None:
    """Raise ``OutsideError`` if unpacking, or copying into the prefix, would fill the disk.

    Packages that are already unpacked in the cache need no more space there. Files are linked, not copied, if the cache
    and the prefix are on the same disk. A ``.tar.bz2`` doesn't state its unpacked size, so the size of the archive is
    used.
    """
    chosen = tuple(fetched)
    plenty = _PLENTY * sum(item.path.stat().st_size for item in chosen)
    if min(shutil.disk_usage(existing(place)).free for place in (store.root, prefix)) > plenty:
        return
    fresh = (item for item in chosen if not (store.conda / record_name(item.artifact)).is_dir())
    total = sum(_unpacked_bytes(item.path) for item in fresh)
    need_room(store.root, total, f"in `{existing(store.root)}` to unpack the packages")
    if _device(store.root) != _device(prefix):
        total = sum(_unpacked_bytes(item.path) for item in chosen)
        where = f"in `{existing(prefix)}` to copy the packages into the environment"
        need_room(prefix, total, f"{where}, which is on another disk than the cache")


def _unpacked_bytes(path: Path) -> int:
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
