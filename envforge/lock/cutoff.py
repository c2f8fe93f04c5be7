"""Parse ``--exclude-newer``, the time after which packages are ignored, into a ``Cutoff`` in UTC.

py-rattler ignores the time zone of a datetime, so this module returns only UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from envforge.errors import RequestError

_SPAN = re.compile(r"(\d{1,5})\s*(h|d|w)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_HOURS = {"h": 1, "d": 24, "w": 168}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutoff:
    """The newest allowed upload time (UTC, inclusive); ``None`` allows all, and overrides the lockfile's cutoff."""

    at: dt.datetime | None

    def __str__(self) -> str:
        return "none" if self.at is None else self.at.isoformat().replace("+00:00", "Z")

    def excludes(self, moment: dt.datetime | None) -> bool:
        """Return whether a file with this upload time is too new; files without a date are allowed."""
        return self.at is not None and moment is not None and moment > self.at


# a lockfile keeps its cutoff until another is given, so that forgetting the option doesn't loosen a reproducible
# lockfile
def parse_cutoff(text: str, now: dt.datetime) -> Cutoff:
    """Parse a date (the day ends in UTC), a time (default: UTC), a span (``12h``, ``7d``, ``2w``), or ``none``.

    A span ends at ``now``. Raises ``RequestError`` for other values and for times in the future.
    """
    text = text.strip()
    if text.lower() == "none":
        return Cutoff(at=None)
    span = _SPAN.fullmatch(text)
    if span is not None:
        return Cutoff(at=_utc(now - dt.timedelta(hours=int(span[1]) * _HOURS[span[2]])))
    try:
        moment = dt.datetime.fromisoformat(f"{text}T23:59:59" if _DATE.fullmatch(text) else _with_zone(text))
    except ValueError as error:
        raise RequestError(
            f"`--exclude-newer {text}` is not a date or a time span: {error}",
            hint="use a date (`2026-01-31`), a time (`2026-01-31T12:00:00+01:00`), a time span (`7d`), or `none`",
            code="bad-date",
        ) from error
    if _utc(moment) > now:
        raise RequestError(
            f"`--exclude-newer {text}` is in the future (now: {Cutoff(at=_utc(now))})",
            hint="use a date in the past, or a time span such as `7d`",
            code="bad-date",
        )
    return Cutoff(at=_utc(moment))


def read_moment(text: str | None) -> dt.datetime | None:
    """Parse a time as written by package indexes, in UTC; return ``None`` if it is missing or invalid."""
    try:
        return _utc(dt.datetime.fromisoformat(_with_zone(text))) if text else None
    except ValueError:
        return None


def _with_zone(text: str) -> str:
    # `fromisoformat` of Python 3.10 supports neither `Z` nor fractions other than three or six digits
    text = re.sub(r"[zZ]$", "+00:00", text)
    return re.sub(r"\.(\d+)", lambda match: f".{match[1]:0<6.6}", text)


def _utc(moment: dt.datetime) -> dt.datetime:
    aware = moment.replace(tzinfo=dt.timezone.utc) if moment.tzinfo is None else moment.astimezone(dt.timezone.utc)
    return aware.replace(microsecond=0)
