"""Suggest the closest valid name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST_PREFIX = 3


def nearest(name: str, known: Iterable[str], *, alike: float = 0.5) -> str | None:
    """Return the known name closest to ``name``, else the only one that starts with it; None if there is none.

    A name is close if the ratio of difflib is at least ``alike``.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and only errors need it

    names = list(known)
    begun = [each for each in names if len(name) >= _SHORTEST_PREFIX and each.startswith(name)]
    close = get_close_matches(name, names, n=1, cutoff=alike)
    return close[0] if close else begun[0] if len(begun) == 1 else None
