"""Parse the arguments of one call, as conda-lock writes them, into a frozen ``Call``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, cast

from envforge.errors import Hint, RequestError

Command = Literal["info", "config", "list", "create", "install", "update"]
Priority = Literal["strict", "disabled"]

# rattler's solver has no `flexible`, which is conda's default; conda-forge recommends `strict`
_PRIORITY = "CONDA_CHANNEL_PRIORITY"
_DISABLED = ("disabled", "false")
SOLVES = ("create", "install", "update")
_KNOWN = "--version, info --json, config --json list|show, list --json and create|install|update --dry-run --json"


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
