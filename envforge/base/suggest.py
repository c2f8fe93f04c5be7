"""Suggest the closest valid name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST_PREFIX = 3


def nearest(name: str, known: Iterable[str], *, alike: float = 0.5) -> str | None:
    """Return the known name closest to ``name``, else the only one that starts with it or that it starts with.

    A name is close if the ratio of difflib is at least ``alike``. Without such a name, return None.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and only errors need it

    names = list(known)
    begun = [each for each in names if _is_begun(name, each) or _is_begun(each, name)]
    close = get_close_matches(name, names, n=1, cutoff=alike)
    return close[0] if close else begun[0] if len(begun) == 1 else None


def _is_begun(prefix: str, name: str) -> bool:
    return len(prefix) >= _SHORTEST_PREFIX and name.startswith(prefix)
