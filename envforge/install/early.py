"""Install wheels with uv while rattler links the conda packages that Python doesn't need, in a new prefix.

If the early attempt fails, or a conda package contains the same library, the wheels are installed after the conda
packages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from typing_extensions import Self

    from envforge.install.link import Archive


def split_python(archives: Iterable[Archive]) -> tuple[tuple[Archive, ...], tuple[Archive, ...]]:
    """Return Python with its dependencies, and all other packages; the first is empty if there is no Python."""
    named = {archive.record.name.normalized: archive for archive in archives}
    needed: dict[str, Archive] = {}
    waiting = deque(["python"])
    while waiting:
        name = waiting.popleft()
        if name in named and name not in needed:
            needed[name] = named[name]
            waiting.extend(words.split()[0] for words in named[name].record.depends if words)
    return tuple(needed.values()), tuple(archive for name, archive in named.items() if name not in needed)


class Early(AbstractContextManager["Early"]):
    """Run work in a thread during a ``with`` block, which waits for it at the end."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wheels")
        self._done = self._pool.submit(work)

    def succeeded(self) -> bool:
        """Return whether the work completed; False if it raised an ``EnvforgeError``. Other exceptions are raised."""
        failure = self._done.exception()
        if failure is not None and not isinstance(failure, EnvforgeError):
            raise failure
        return failure is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
