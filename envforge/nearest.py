"""Suggest the closest valid name for an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, alike: float = 0.5) -> str | None:
    """Return the known name closest to ``name``; None if the ratio of difflib is below ``alike`` for all of them."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and only errors need it

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=alike)), None)
