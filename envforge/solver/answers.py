"""Write the JSON that conda prints, as far as conda-lock 4 and its vendored conda read it.

The format was recorded from conda 26.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge.errors import EnvforgeError, Hint
from envforge.solver.channels import hide
from envforge.solver.records import Record

Json = dict[str, Any]

# conda's own names of these errors
_EXCEPTIONS = {
    "packages-not-found": "PackagesNotFoundInChannelsError",
    "unsatisfiable": "UnsatisfiableError",
    "repodata-unreadable": "CondaHTTPError",
    "channel-unreachable": "CondaHTTPError",
    "no-channel": "NoChannelsConfiguredError",
    "not-an-environment": "EnvironmentLocationNotFound",
    "bad-spec": "InvalidMatchSpec",
    "bad-channel": "InvalidChannel",
    "not-a-solver-call": "ArgumentError",
}


class PackagesNotFoundError(EnvforgeError):
    """No package matches a spec. ``unknown`` lists the names that no channel has in any version."""

    def __init__(
        self, message: str, *, hint: str | Iterable[Hint] = "", code: str = "packages-not-found", unknown: Iterable[str]
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.unknown = tuple(unknown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The changes of a dry run in ``prefix``, in the order of execution."""

    prefix: Path
    link: tuple[Record, ...]
    unlink: tuple[Record, ...] = ()


def dry_run(change: Change) -> Json:
    """Return the answer to ``create|install|update --dry-run --json``: the packages to fetch, unlink, and link."""
    actions: Json = {"FETCH": [_fetch(record) for record in sorted(change.link, key=_name)]}
    actions["PREFIX"] = str(change.prefix)
    if change.unlink:
        actions["UNLINK"] = [_link(record) for record in change.unlink]
    actions["LINK"] = [_link(record) for record in change.link]
    return {"success": True, "actions": actions, "prefix": str(change.prefix), "dry_run": True}


def nothing_to_do() -> Json:
    """Return the answer to ``install|update`` if nothing would change."""
    return {"success": True, "message": "All requested packages already installed."}


def installed(records: Iterable[Record]) -> list[Json]:
    """Return the answer to ``list --json``."""
    return [_link(record) for record in sorted(records, key=_name)]


def failure(error: EnvforgeError) -> Json:
    """Return the error with its text in ``message``, where conda-lock reads it, and its parts for ``envforge.lock``."""
    reason, name = hide(error.message), _EXCEPTIONS.get(error.code, "CondaError")
    message = f"{reason}\n\nhint: {hide(error.hint)}" if error.hint else reason
    return {
        "success": False,
        "error": f"{name}: {message}",
        "exception_name": name,
        "message": message,
        "code": error.code,
        "reason": reason,
        "hints": [{"purpose": hide(hint.purpose), "command": hide(hint.command)} for hint in error.hints],
        "unknown": list(error.unknown) if isinstance(error, PackagesNotFoundError) else [],
    }


def settings(environment: Mapping[str, str], platform: str) -> Json:
    """Return the answer to ``info --json`` and ``config --json list|show``, with the settings that conda-lock reads."""
    stated = environment.get("CONDA_PKGS_DIRS", "")
    return {
        "channels": [],
        "pkgs_dirs": [part for part in stated.split(",") if part],
        "platform": platform,
        "subdir": platform,
    }


def _fetch(record: Record) -> Json:
    entry: Json = {
        "name": record.name,
        "version": record.version,
        "build": record.build,
        "build_number": record.build_number,
        "channel": f"{record.channel}/{record.subdir}",
        "subdir": record.subdir,
        "fn": record.fn,
        "md5": record.md5,
        "url": record.url,
        "sha256": record.sha256,
        "depends": list(record.depends),
        "constrains": list(record.constrains),
        "license": record.license,
        "noarch": record.noarch,
        "timestamp": record.timestamp,
        "size": record.size,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _link(record: Record) -> Json:
    return {
        "base_url": record.channel,
        "build_number": record.build_number,
        "build_string": record.build,
        "channel": record.channel.rpartition("/")[2],
        "dist_name": record.dist_name,
        "name": record.name,
        "platform": record.subdir,
        "version": record.version,
    }


def _name(record: Record) -> str:
    return record.name
