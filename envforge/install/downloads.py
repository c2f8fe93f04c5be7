"""Download the files that are not in the cache, several at a time, and verify them.

A file whose checksum differs is downloaded once more. A second mismatch stops the install and all other downloads.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.install.archive import check_archive
from envforge.install.credentials import without_credentials
from envforge.install.store import Store, digest_of
from envforge.install.transfer import WORKERS, Stopped, Wire, download, size_of
from envforge.install.values import Artifact, Digest, InstallRequest, Progress, Silent

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
        pools={},
        guard=threading.Lock(),
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
            if not (path.is_file() and digest_of(path, artifact.digest) == artifact.digest):  # another install's
                self._checked(artifact, partial)
                self.store.keep(partial, path)
        return path.stat().st_size

    def _is_near(self, artifact: Artifact) -> bool:
        supply = self.wire.supply
        held = supply is not None and supply.holds(artifact)
        return held or self.wire.address(artifact.package.url).startswith("file:")

    def _checked(self, artifact: Artifact, partial: Path) -> None:
        """Download until ``partial`` is the locked file, and remove it if a check fails."""
        if not (partial.is_file() and digest_of(partial, artifact.digest) == artifact.digest):
            found = download(artifact, partial, self.wire)
            if found != artifact.digest:
                self.wire.progress.note(f"checksum mismatch for `{artifact.label}`; downloading it again")
                partial.unlink()
                found = download(artifact, partial, self.wire)
            if found != artifact.digest:
                partial.unlink()
                raise _mismatch(artifact, found)
        try:
            check_archive(partial, artifact)
        except EnvforgeError:
            partial.unlink()
            raise


def _not_cached(artifact: Artifact) -> EnvforgeError:
    return OutsideError(
        f"`{artifact.label}` is not in the cache, and can't be downloaded from "
        f"`{without_credentials(artifact.package.url)}` because `--offline` was provided",
        hint=(
            Hint("to download it, omit `--offline`"),
            Hint("to read it from a directory that contains it, pass `--mirror FROM=file:///DIR`"),
        ),
        code="not-cached",
    )


def _mismatch(artifact: Artifact, found: Digest) -> EnvforgeError:
    return OutsideError(
        f"checksum mismatch for `{artifact.label}`\n"
        f"  URL:      `{without_credentials(artifact.package.url)}`\n"
        f"  expected: `{artifact.digest}` (lockfile)\n"
        f"  found:    `{found}` (downloaded twice)",
        hint=(
            Hint("find out why the file changed before you install it"),
            Hint("if the publisher replaced it", "envforge lock"),
        ),
        code="checksum-mismatch",
    )
