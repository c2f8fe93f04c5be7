"""Answer the calls of conda-lock as conda would, in JSON.

The format was recorded from conda 26.7.

``envforge.lock.previous_lock`` reads it to find which packages conda provides. Files are written atomically.

If ``ENVFORGE_SOLVE_RECORDS`` is set, each solve is also recorded in that directory.
"""

from __future__ import annotations

import hashlib
import json
import platform as python_platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from envforge.base.files import write_atomic
from envforge.base.net import Mirrors
from envforge.base.urls import hide_secrets
from envforge.errors import EnvforgeError, Hint
from envforge.lock.solver.channels import ALIAS, Naming, Priority
from envforge.lock.solver.request import Record
from envforge.lock.solver.request import read_preferences as read_wishes

Json = dict[str, Any]
Command = Literal["info", "config", "list", "create", "install", "update"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of the executable; ``words`` are the match specs of a solve or the keys of ``config``.

    ``notes`` lists settings of the user that are not supported.
    """

    command: Command
    words: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    prefix: Path | None = None
    priority: Priority = "strict"
    notes: tuple[str, ...] = ()


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
    reason, name = hide_secrets(error.message), _EXCEPTIONS.get(error.code, "CondaError")
    message = f"{reason}\n\nhint: {hide_secrets(error.hint)}" if error.hint else reason
    return {
        "success": False,
        "error": f"{name}: {message}",
        "exception_name": name,
        "message": message,
        "code": error.code,
        "reason": reason,
        "hints": [
            {"purpose": hide_secrets(hint.purpose), "command": hide_secrets(hint.command)} for hint in error.hints
        ],
        "unknown": list(error.unknown) if isinstance(error, PackagesNotFoundError) else [],
    }


def settings_answer(environment: Mapping[str, str], platform: str) -> Json:
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


def read_installed(prefix: Path) -> tuple[Record, ...]:
    """Return the installed packages, sorted by name; raise ``EnvforgeError`` for an invalid entry."""
    folder = prefix / "conda-meta"
    if not folder.is_dir():
        raise EnvforgeError(
            f"`{prefix}` is not an environment: it has no directory `conda-meta`", code="not-an-environment"
        )
    return tuple(sorted((_record(path) for path in folder.glob("*.json")), key=lambda record: record.name))


def _record(path: Path) -> Record:
    try:
        return Record.from_mapping(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise EnvforgeError(
            f"`{path}` is not a package record: {type(error).__name__}: {error}", code="bad-prefix-record"
        ) from error


SOLVE_RECORDS_VARIABLE = "ENVFORGE_SOLVE_RECORDS"


def write_solve_record(folder: Path, platform: str, specs: tuple[str, ...], records: tuple[Record, ...]) -> Path:
    """Write ``PLATFORM-DIGEST.json`` into ``folder`` and return its path; the same solve writes the same file."""
    document = {
        "version": 1,
        "platform": platform,
        "specs": [hide_secrets(spec) for spec in specs],
        "packages": [_package(record) for record in sorted(records, key=lambda record: record.name)],
    }
    text = json.dumps(document, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{platform}-{digest}.json"
    write_atomic(path, text)
    return path


def _package(record: Record) -> dict[str, object]:
    return {
        "name": record.name,
        "version": record.version,
        "build": record.build,
        "url": hide_secrets(record.url),
        "sha256": record.sha256,
        "md5": record.md5,
        "depends": list(record.depends),
        "size": record.size,
        "timestamp": record.indexed_timestamp or record.timestamp,
        "noarch": record.noarch,
    }


def answer_call(call: Call, environment: Mapping[str, str]) -> object:
    """Return the document that conda would print for ``call``; raise ``EnvforgeError`` if the call fails."""
    platform = environment.get("CONDA_SUBDIR") or _host()
    if call.command == "list":
        return installed(read_installed(_prefix(call)))
    if call.command == "info":
        return settings_answer(environment, platform)
    if call.command == "config":
        settings = settings_answer(environment, platform)
        wanted = [word for word in call.words if word not in {"list", "show"}]
        return {key: value for key, value in settings.items() if not wanted or key in wanted}
    return _solved(call, environment, platform)


def _solved(call: Call, environment: Mapping[str, str], platform: str) -> Json:
    from envforge.lock.solver import request, solve  # noqa: PLC0415 - rattler takes 0.1 s, which other calls don't need

    naming = Naming(
        mirrors=Mirrors.from_environment(environment),
        platform=platform,
        alias=environment.get("CONDA_CHANNEL_ALIAS", ALIAS).rstrip("/"),
    )
    channels, virtual_packages = request.split_virtual_packages(naming.channels(call.channels), platform)
    before = () if call.command == "create" else read_installed(_prefix(call))
    after = solve.solve(
        request.Request(
            specs=call.words,
            channels=channels,
            naming=naming,
            virtual=virtual_packages,
            installed=before,
            priority=call.priority,
            environment=environment,
            wishes=read_wishes(environment),
        )
    )
    folder = environment.get(SOLVE_RECORDS_VARIABLE)
    if folder:
        write_solve_record(Path(folder), platform, call.words, after)
    return _difference(_prefix(call), before, after)


def _difference(prefix: Path, before: tuple[Record, ...], after: tuple[Record, ...]) -> Json:
    link, unlink = _without(after, before), _without(before, after)
    if before and not link and not unlink:
        return nothing_to_do()
    return dry_run(Change(prefix=prefix, link=link, unlink=unlink))


def _without(records: tuple[Record, ...], others: tuple[Record, ...]) -> tuple[Record, ...]:
    known = {(record.dist_name, record.subdir) for record in others}
    return tuple(record for record in records if (record.dist_name, record.subdir) not in known)


def _prefix(call: Call) -> Path:
    if call.prefix is None:
        raise EnvforgeError(f"`{call.command}` requires `--prefix PATH`", code="no-prefix")
    return call.prefix


def _host() -> str:
    # rattler knows the platform too, but takes 0.1 s to import
    system = {"Linux": "linux", "Darwin": "osx", "Windows": "win"}.get(python_platform.system(), "linux")
    machine = python_platform.machine().lower()
    if machine in {"amd64", "x86_64"}:
        return f"{system}-64"
    return f"{system}-arm64" if machine in {"arm64", "aarch64"} and system != "linux" else f"{system}-{machine}"
