"""Hash cached files in threads while other work runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from envforge.install.store import Store, digest_of
from envforge.install.values import Artifact, Digest

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")
_SWITCH_S = 0.0005  # with the default interval, a reader would wait for the GIL behind busy imports after each block


class Reader:
    """Read cached files in threads for the duration of a ``with`` block; ``begin`` starts reading before ``digest``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(1 + (os.cpu_count() or 1), thread_name_prefix="read")
        self._digests: dict[Artifact, Future[Digest | None]] = {}
        self._switch_s = _SWITCH_S

    def begin(self, artifacts: Iterable[Artifact]) -> None:
        """Start to hash files, largest first, so that no large file is left for the end."""
        fresh = [artifact for artifact in artifacts if artifact not in self._digests]
        sizes = {artifact: self._size(artifact) for artifact in fresh}
        for artifact in sorted(fresh, key=lambda artifact: -sizes[artifact]):
            if sizes[artifact] >= 0:
                self._digests[artifact] = self._pool.submit(self._read, artifact)

    def digest(self, artifact: Artifact) -> Digest | None:
        """Return the checksum of the cached file of a package, or None if it is not cached."""
        self.begin([artifact])
        known = self._digests.pop(artifact, None)
        return known.result() if known is not None else None

    def beside(self, work: Callable[[], _T]) -> Callable[[], _T]:
        """Start ``work`` in a thread and return a function that waits for its result."""
        return self._pool.submit(work).result

    def _size(self, artifact: Artifact) -> int:
        path = self.store.path(artifact)
        return path.stat().st_size if path.is_file() else -1

    def _read(self, artifact: Artifact) -> Digest | None:
        try:
            return digest_of(self.store.path(artifact), artifact.digest)
        except FileNotFoundError:
            return None

    def __enter__(self) -> Self:
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.setswitchinterval(self._switch_s)
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
