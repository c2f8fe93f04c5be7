"""Convert click's usage errors to errors of envforge: one message, and a hint with the nearest name."""

from __future__ import annotations

import re

import click
from click.exceptions import MissingParameter, NoSuchOption, UsageError

from envforge.base.suggest import nearest
from envforge.cli import COMMANDS
from envforge.errors import EnvforgeError, Hint


class InvalidUsageError(EnvforgeError):
    """A command line that click can't parse."""

    exit_code = 2


def usage_error(error: click.ClickException, command: str) -> InvalidUsageError:
    """Return the error to report for an exception of click that was raised in ``command``."""
    context = error.ctx if isinstance(error, UsageError) else None
    path = context.command_path if context is not None else f"envforge {command}" if command in COMMANDS else "envforge"
    command_name = getattr(error, "command_name", None)  # NoSuchCommand of click 8.4 or later
    hints: list[Hint] = []
    if isinstance(error, NoSuchOption):
        message = f"no such option `{error.option_name}` for `{path}`"
        hints += _did_you_mean(error.option_name, _options(context))
    elif command_name is not None:
        message = f"no such command `{path} {command_name}`"
        hints += _did_you_mean(command_name, _commands(context), before=f"{path} ")
    elif isinstance(error, MissingParameter):
        message = _missing(error)
    else:
        message = _plain(error.format_message())
    is_group = path == "envforge" or (context is not None and isinstance(context.command, click.Group))
    help_command = f"{path} --help"
    hints.append(Hint("to list the commands" if is_group else "to see the usage", help_command))
    return InvalidUsageError(message, hint=hints, code="usage")


def _did_you_mean(name: str, known: list[str], *, before: str = "") -> list[Hint]:
    by_word = {each.lstrip("-"): each for each in known}
    near = nearest(name.lstrip("-"), by_word, alike=0.6)
    return [Hint(f"did you mean `{before}{by_word[near]}`?")] if near is not None else []


def _options(context: click.Context | None) -> list[str]:
    parameters = context.command.get_params(context) if context is not None else []
    return [name for each in parameters for name in (*each.opts, *each.secondary_opts) if name.startswith("-")]


def _commands(context: click.Context | None) -> list[str]:
    if context is None or not isinstance(context.command, click.Group):
        return list(COMMANDS)
    return context.command.list_commands(context)


def _missing(error: MissingParameter) -> str:
    parameter = error.param
    if parameter is None:
        return _plain(error.format_message())
    if isinstance(parameter, click.Argument):
        return f"missing argument `{parameter.make_metavar(error.ctx)}`" if error.ctx else "missing argument"
    return f"missing option `{'` or `'.join(parameter.opts)}`"


def _plain(message: str) -> str:
    """Return a message of click in envforge's style: lower-case start, values in backticks, no period at its end."""
    extra = re.fullmatch(r"Got unexpected extra arguments? \((.*)\)\.?", message)
    if extra is not None:
        return f"unexpected argument: `{extra[1]}`"
    text = re.sub(r"(?<!\w)'([^']*)'(?!\w)", r"`\1`", message.strip().removesuffix("."))
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
