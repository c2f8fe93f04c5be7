"""Read what a solve should prefer in addition to conda-lock's arguments: packages to keep, names to upgrade, a cutoff.

``envforge.lock.keep`` writes the JSON file, and ``ENVFORGE_SOLVE_WISHES`` is its path.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge.errors import EnvforgeError

VARIABLE = "ENVFORGE_SOLVE_WISHES"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A package of the old lockfile, identified by file name and digest, so that its mirror doesn't matter."""

    name: str
    file_name: str
    sha256: str | None
    md5: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What a solve should prefer. ``renew`` names packages to upgrade; ``exclude_newer`` is in UTC."""

    keep: tuple[Kept, ...] = ()
    renew: tuple[str, ...] = ()
    exclude_newer: dt.datetime | None = None

    def to_json(self) -> str:
        """Return the contents of the file."""
        keep = [{"name": k.name, "file_name": k.file_name, "sha256": k.sha256, "md5": k.md5} for k in self.keep]
        moment = self.exclude_newer.isoformat() if self.exclude_newer else None
        return json.dumps({"version": 1, "keep": keep, "renew": list(self.renew), "exclude_newer": moment})


def read(environment: Mapping[str, str]) -> Wishes:
    """Return the preferences for this call; empty if the variable is not set."""
    path = environment.get(VARIABLE)
    if not path:
        return Wishes()
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        moment = document["exclude_newer"]
        return Wishes(
            keep=tuple(Kept(**entry) for entry in document["keep"]),
            renew=tuple(document["renew"]),
            exclude_newer=dt.datetime.fromisoformat(moment).astimezone(dt.timezone.utc) if moment else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvforgeError(f"cannot read `{path}` (from `{VARIABLE}`): {error}", code="bad-wishes") from error
