"""Solve conda packages with py-rattler, in a process that conda-lock starts in place of conda.

``envforge.lock`` writes the preferences of a solve to a file, and reads the solved packages from another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from envforge.errors import EnvforgeError, Hint

PREFERENCES_VARIABLE = "ENVFORGE_SOLVE_WISHES"
RECORDS_VARIABLE = "ENVFORGE_SOLVE_RECORDS"


class LockedFile(Struct, frozen=True, kw_only=True):
    """A package of the old lockfile, identified by file name and digest, so that its mirror doesn't matter."""

    name: str
    file_name: str
    sha256: str | None
    md5: str | None


class Wishes(Struct, frozen=True, kw_only=True):
    """What a solve should prefer. ``renew`` names packages to upgrade; ``exclude_newer`` is in UTC."""

    keep: tuple[LockedFile, ...] = ()
    renew: tuple[str, ...] = ()
    exclude_newer: dt.datetime | None = None
    version: Literal[1] = 1


class PackagesNotFoundError(EnvforgeError):
    """No package matches a spec. ``unknown`` lists the names that no channel has in any version."""

    def __init__(
        self, message: str, *, hint: str | Iterable[Hint] = "", code: str = "packages-not-found", unknown: Iterable[str]
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.unknown = tuple(unknown)
