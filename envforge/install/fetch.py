"""Every file of a plan, present in the cache and checked: what is cached is read again, the rest is downloaded.

A cached file that does not match is evicted and fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from envforge.install.cached import Reader
from envforge.install.store import Store
from envforge.install.values import Artifact, InstallRequest, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file that has the checksum of the lock and no member that leaves its folder."""

    artifact: Artifact
    path: Path
    downloaded_bytes: int


def fetch_all(
    artifacts: tuple[Artifact, ...],
    store: Store,
    request: InstallRequest,
    progress: Progress,
    reader: Reader | None = None,
) -> tuple[Fetched, ...]:
    """Bring every file into the cache; ``reader`` may have begun to read what is there."""
    progress.begin("downloading", None, "bytes")
    try:
        with Reader(store) if reader is None else nullcontext(reader) as reading:
            missing = tuple(_missing(artifacts, store, reading, progress))
        fetched: dict[Artifact, int] = {}
        if missing:
            from envforge.install.downloads import download_all  # noqa: PLC0415 - an HTTP client comes with it

            fetched = download_all(missing, store, request, progress)
    finally:
        progress.end()
    return tuple(
        Fetched(artifact=artifact, path=store.path(artifact), downloaded_bytes=fetched.get(artifact, 0))
        for artifact in artifacts
    )


def _missing(artifacts: tuple[Artifact, ...], store: Store, reader: Reader, progress: Progress) -> Iterable[Artifact]:
    """What has to be downloaded; damaged files are evicted."""
    reader.begin(artifacts)
    for artifact in artifacts:
        found = reader.digest(artifact)
        if found == artifact.digest:
            continue
        if found is not None:
            progress.note(f"the cached file of `{artifact.label}` is corrupt; downloading it again")
            store.evict(artifact)
        yield artifact
