"""Both halves at once, in a new prefix: uv installs the wheels while rattler links what Python does not need (effects).

An early attempt that fails, or that met a conda package with the same library, is nothing: the wheels are then
installed after the conda packages, as in every other prefix.
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
    """What Python needs to start, itself included, and the rest; the first is empty where there is no Python."""
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
    """Work beside the body of a ``with`` block, which ends when both have."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wheels")
        self._done = self._pool.submit(work)

    def succeeded(self) -> bool:
        """Whether the work came to its end; one of our own errors is a no, whatever it says."""
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
