"""What somebody may have meant: a name that does not exist enters, the one most like it leaves."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, alike: float = 0.5) -> str | None:
    """The known name that is most like ``name``; ``None`` where none is ``alike`` (0 to 1, as difflib counts)."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and only errors need it

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=alike)), None)
