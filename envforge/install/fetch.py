"""Make every file of a plan available in the cache, with a verified checksum.

Cached files are hashed again. A file whose checksum differs is removed and downloaded again.
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
    """A file with the locked checksum and no member that leads outside its directory."""

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
    """Bring every file into the cache; ``reader`` may already be hashing cached files."""
    progress.begin("downloading", None, "bytes")
    try:
        with Reader(store) if reader is None else nullcontext(reader) as reading:
            missing = tuple(_missing(artifacts, store, reading, progress))
        fetched: dict[Artifact, int] = {}
        if missing:
            from envforge.install.downloads import download_all  # noqa: PLC0415 - imports an HTTP client

            fetched = download_all(missing, store, request, progress)
    finally:
        progress.end()
    return tuple(
        Fetched(artifact=artifact, path=store.path(artifact), downloaded_bytes=fetched.get(artifact, 0))
        for artifact in artifacts
    )


def _missing(artifacts: tuple[Artifact, ...], store: Store, reader: Reader, progress: Progress) -> Iterable[Artifact]:
    """Yield what must be downloaded, and evict corrupt files."""
    reader.begin(artifacts)
    for artifact in artifacts:
        found = reader.digest(artifact)
        if found == artifact.digest:
            continue
        if found is not None:
            progress.note(f"the cached file of `{artifact.label}` is corrupt; downloading it again")
            store.evict(artifact)
        yield artifact
