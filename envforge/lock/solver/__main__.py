"""Run ``python -m envforge.lock.solver``: answer one call with one JSON document, as conda does.

stdout contains only the document. Exits with 0 if the call succeeds, and with 1 if it fails; ``message`` is the reason.
The format was recorded from conda 26.7. If ``ENVFORGE_SOLVE_RECORDS`` is set, each solve is also recorded in that
directory. rattler takes 0.1 s to import, which only a solve needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform as python_platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from msgspec import Struct

import envforge
from envforge.base.envelope import fields_to_json
from envforge.base.files import write_atomic
from envforge.base.urls import hide_secrets
from envforge.errors import EnvforgeError, Hint, RequestError, exit_process
from envforge.lock.solver import RECORDS_VARIABLE, PackagesNotFoundError

if TYPE_CHECKING:
    from envforge.lock.solver.request import IndexRecord, Priority

_JsonObject = dict[str, Any]
Command = Literal["info", "config", "list", "create", "install", "update"]


class Call(Struct, frozen=True, kw_only=True):
    """One call of the executable; ``words`` are the match specs of a solve or the keys of ``config``.

    ``notes`` lists settings of the user that are not supported.
    """

    command: Command
    words: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    prefix: Path | None = None
    priority: Priority = "strict"
    notes: tuple[str, ...] = ()


def main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Answer one call on stdout and return the exit code."""
    if words and words[0] in {"--version", "-V"}:
        print(f"envforge-solver {envforge.__version__}")  # noqa: T201 - the answer
        return 0
    try:
        call = parse_call(words, environment)
        for note in call.notes:
            print(note, file=sys.stderr)  # noqa: T201 - messages go to stderr
        text, code = json.dumps(answer_call(call, environment)), 0
    except EnvforgeError as error:
        text, code = json.dumps(failure(error), indent=2), 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - conda-lock expects JSON for any failure; the traceback is on stderr
        traceback.print_exc()
        reason = f"the solver of envforge failed with an internal error: {type(error).__name__}: {error}"
        text, code = json.dumps(failure(EnvforgeError(reason, code="bug"))), 70
    print(text)  # noqa: T201 - the answer
    return code


# rattler's solver has no `flexible`, which is conda's default; conda-forge recommends `strict`
_PRIORITY = "CONDA_CHANNEL_PRIORITY"
_DISABLED = ("disabled", "false")
SOLVES = ("create", "install", "update")
_KNOWN = "--version, info --json, config --json list|show, list --json and create|install|update --dry-run --json"


def parse_call(words: Sequence[str], environment: Mapping[str, str]) -> Call:
    """Parse the arguments after the program's name; raise ``RequestError`` for unsupported calls."""
    if not words:
        raise _refusal("no command was provided")
    command, *rest = words
    if command not in {"info", "config", "list", *SOLVES}:
        raise _refusal(f"`{command}` is not supported")
    given = _parser(command).parse_intermixed_args(rest)
    if command in SOLVES:
        _check_solve(command, given)
    stated = environment.get(_PRIORITY, "strict").lower()
    return Call(
        command=cast("Command", command),
        words=tuple(given.words),
        channels=tuple(given.channel),
        prefix=Path(given.prefix) if given.prefix else None,
        priority="disabled" if given.no_channel_priority or stated in _DISABLED else "strict",
        notes=_notes(command, stated),
    )


def _check_solve(command: str, given: argparse.Namespace) -> None:
    if given.file:
        raise _refusal(f"`{command} --file {' '.join(given.file)}` would install an environment")
    if not given.dry_run:
        raise _refusal(f"`{command}` without `--dry-run` would change an environment")
    if not given.words:
        raise _refusal(f"`{command}` requires a package")
    if command != "create" and not given.prefix:
        raise _refusal(f"`{command}` requires `--prefix`")


def _notes(command: str, stated: str) -> tuple[str, ...]:
    if command not in SOLVES or stated in {"strict", *_DISABLED}:
        return ()
    return (f"`{_PRIORITY}={stated}` is treated as `strict`: this solver supports only `strict` and `disabled`",)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _refusal(message)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"conda {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--prefix", "-p")
    parser.add_argument("--name", "-n")
    parser.add_argument("--channel", "-c", action="append", default=[])
    parser.add_argument("--file", "-f", action="append", default=[])
    parser.add_argument("--no-channel-priority", action="store_true")
    parser.add_argument("--strict-channel-priority", action="store_true")
    for flag in (("--dry-run", "-d"), ("--json",), ("--override-channels",), ("--quiet", "-q"), ("--yes", "-y")):
        parser.add_argument(*flag, action="store_true")
    parser.add_argument("--no-pip", action="store_true")
    parser.add_argument("--copy", action="store_true")
    return parser


def _refusal(reason: str) -> RequestError:
    return RequestError(
        f"this executable is the solver that envforge provides for conda-lock: {reason} (supported: {_KNOWN})",
        hint=(
            Hint("to install a lockfile", "envforge install"),
            Hint("to lock with your own conda", "envforge lock --conda-exe PATH"),
        ),
        code="not-a-solver-call",
    )


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


def failure(error: EnvforgeError) -> _JsonObject:
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


def settings_answer(environment: Mapping[str, str], platform: str) -> _JsonObject:
    """Return the answer to ``info --json`` and ``config --json list|show``, with the settings that conda-lock reads."""
    stated = environment.get("CONDA_PKGS_DIRS", "")
    return {
        "channels": [],
        "pkgs_dirs": [part for part in stated.split(",") if part],
        "platform": platform,
        "subdir": platform,
    }


def _fetch(record: IndexRecord) -> _JsonObject:
    entry = {**fields_to_json(record), "channel": f"{record.channel}/{record.subdir}", "indexed_timestamp": None}
    return {key: value for key, value in entry.items() if value is not None}


def _link(record: IndexRecord) -> _JsonObject:
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


def read_installed(prefix: Path) -> tuple[IndexRecord, ...]:
    """Return the installed packages, sorted by name; raise ``EnvforgeError`` for an invalid entry."""
    folder = prefix / "conda-meta"
    if not folder.is_dir():
        raise EnvforgeError(
            f"`{prefix}` is not an environment: it has no directory `conda-meta`", code="not-an-environment"
        )
    from envforge.lock.solver.request import IndexRecord  # noqa: PLC0415 - imports rattler

    records = [IndexRecord.read(path.read_bytes(), f"`{path}`") for path in folder.glob("*.json")]
    return tuple(sorted(records, key=lambda record: record.name))


def write_solve_record(folder: Path, platform: str, specs: tuple[str, ...], records: tuple[IndexRecord, ...]) -> Path:
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


def _package(record: IndexRecord) -> _JsonObject:
    # only these fields, because the URL of a channel may have credentials
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
        return [_link(record) for record in read_installed(_prefix(call))]
    if call.command == "info":
        return settings_answer(environment, platform)
    if call.command == "config":
        settings = settings_answer(environment, platform)
        wanted = [word for word in call.words if word not in {"list", "show"}]
        return {key: value for key, value in settings.items() if not wanted or key in wanted}
    return _solved(call, environment, platform)


def _solved(call: Call, environment: Mapping[str, str], platform: str) -> _JsonObject:
    from envforge.base.urls import Mirrors  # noqa: PLC0415 - only a solve needs it
    from envforge.lock.solver import request, solve  # noqa: PLC0415 - imports rattler
    from envforge.lock.solver.request import ALIAS, Naming  # noqa: PLC0415 - as above

    naming = Naming(
        mirrors=Mirrors.from_environment(environment),
        platform=platform,
        alias=environment.get("CONDA_CHANNEL_ALIAS", ALIAS).rstrip("/"),
    )
    channels, virtual_packages = request.split_virtual_packages(naming.channels(call.channels), platform)
    before = () if call.command == "create" else read_installed(_prefix(call))
    after = solve.solve(
        request.SolveRequest(
            specs=call.words,
            channels=channels,
            naming=naming,
            virtual=virtual_packages,
            installed=before,
            priority=call.priority,
            environment=environment,
            wishes=request.read_preferences(environment),
        )
    )
    folder = environment.get(RECORDS_VARIABLE)
    if folder:
        write_solve_record(Path(folder), platform, call.words, after)
    return _difference(_prefix(call), before, after)


def _difference(prefix: Path, before: tuple[IndexRecord, ...], after: tuple[IndexRecord, ...]) -> _JsonObject:
    """Return the answer to ``create|install|update --dry-run --json``: the packages to fetch, unlink, and link."""
    link, unlink = _without(after, before), _without(before, after)
    if before and not link and not unlink:
        return {"success": True, "message": "All requested packages already installed."}
    actions: _JsonObject = {
        "FETCH": [_fetch(record) for record in sorted(link, key=lambda record: record.name)],
        "PREFIX": str(prefix),
        **({"UNLINK": [_link(record) for record in unlink]} if unlink else {}),
        "LINK": [_link(record) for record in link],
    }
    return {"success": True, "actions": actions, "prefix": str(prefix), "dry_run": True}


def _without(records: tuple[IndexRecord, ...], others: tuple[IndexRecord, ...]) -> tuple[IndexRecord, ...]:
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


if __name__ == "__main__":
    exit_process(main(sys.argv[1:], os.environ))
