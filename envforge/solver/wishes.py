"""What envforge wants of a solve beside the words of conda-lock's call: packages to keep, names to renew, a date.

Enters: the file that ``ENVFORGE_SOLVE_WISHES`` names. Leaves: ``Wishes``. ``envforge.lock.keep`` writes the file.
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
    """A package of the old lock: known again by its file and digest, at whatever mirror it is read."""

    name: str
    file_name: str
    sha256: str | None
    md5: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """``renew`` names packages of which the newest is wanted; ``exclude_newer`` is in UTC."""

    keep: tuple[Kept, ...] = ()
    renew: tuple[str, ...] = ()
    exclude_newer: dt.datetime | None = None

    def to_json(self) -> str:
        """The text of the file."""
        keep = [{"name": k.name, "file_name": k.file_name, "sha256": k.sha256, "md5": k.md5} for k in self.keep]
        moment = self.exclude_newer.isoformat() if self.exclude_newer else None
        return json.dumps({"version": 1, "keep": keep, "renew": list(self.renew), "exclude_newer": moment})


def read(environment: Mapping[str, str]) -> Wishes:
    """The wishes of this call; without the variable there are none."""
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
