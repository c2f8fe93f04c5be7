"""Run ``python -m envforge.lock.solver``: answer one call with one JSON document, as conda does.

stdout contains only the document. Exits with 0 if the call succeeds, and with 1 if it fails; ``message`` is the reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import envforge
from envforge.base.process import exit_process
from envforge.errors import EnvforgeError, Hint, RequestError

if TYPE_CHECKING:
    from envforge.lock.solver.answers import Call, Command


def main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Answer one call on stdout and return the exit code."""
    if words and words[0] in {"--version", "-V"}:
        print(f"envforge-solver {envforge.__version__}")  # noqa: T201 - the answer
        return 0
    import json  # noqa: PLC0415 - conda-lock first requests the version, which needs no import
    import traceback  # noqa: PLC0415

    from envforge.lock.solver import answers  # noqa: PLC0415

    try:
        call = parse_call(words, environment)
        for note in call.notes:
            print(note, file=sys.stderr)  # noqa: T201 - messages go to stderr
        text, code = json.dumps(answers.answer_call(call, environment)), 0
    except EnvforgeError as error:
        text, code = json.dumps(answers.failure(error), indent=2), 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - conda-lock expects JSON for any failure; the traceback is on stderr
        traceback.print_exc()
        reason = f"the solver of envforge failed with an internal error: {type(error).__name__}: {error}"
        text, code = json.dumps(answers.failure(EnvforgeError(reason, code="bug"))), 70
    print(text)  # noqa: T201 - the answer
    return code


# rattler's solver has no `flexible`, which is conda's default; conda-forge recommends `strict`
_PRIORITY = "CONDA_CHANNEL_PRIORITY"
_DISABLED = ("disabled", "false")
SOLVES = ("create", "install", "update")
_KNOWN = "--version, info --json, config --json list|show, list --json and create|install|update --dry-run --json"


def parse_call(words: Sequence[str], environment: Mapping[str, str]) -> Call:
    """Parse the arguments after the program's name; raise ``RequestError`` for unsupported calls."""
    from envforge.lock.solver.answers import Call  # noqa: PLC0415 - as in `main`

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


if __name__ == "__main__":
    exit_process(main(sys.argv[1:], os.environ))
