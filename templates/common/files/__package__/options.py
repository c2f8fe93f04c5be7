"""Turn the fields of a frozen dataclass into options of the command line, and the arguments into a value of it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .errors import Hint

Config = TypeVar("Config")


def option(default: Any, help: str, *, choices: Sequence[str] = (), fixed: bool = False) -> Any:
    """Return a field with its help text. ``fixed``: a resumed run must have the same value."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "fixed": fixed})


class Parser(argparse.ArgumentParser):
    """Report a usage error as one line and a hint, without the list of all options."""

    def __init__(self, *, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def error(self, message: str, hint: Hint | None = None) -> NoReturn:
        hint = hint or Hint("to list the options", option="--help")
        self.exit(2, f"error: {message}\n\nhint: {hint}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raise for the first unknown argument, with the most similar option as a hint."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            near = _similar(option, list(self._option_string_actions)) if option.startswith("-") else None
            kind = "option" if option.startswith("-") else "argument"
            self.error(f"unknown {kind} `{option}`", Hint(f"did you mean `{near}`?") if near else None)
        return found, unknown


def _similar(option: str, known: Sequence[str]) -> str | None:
    """Return the option that ``option`` abbreviates by its initials, is part of, or resembles."""
    word = option.strip("-").replace("_", "-")
    names = {name.strip("-"): name for name in known}
    found = [name for name in names if "".join(part[0] for part in name.split("-")) == word.replace("-", "")]
    found += [name for name in names if min(len(word), len(name)) > 2 and (word in name or name in word)]
    found += difflib.get_close_matches(word, names, n=1)
    return names[found[0]] if found else None


def parse(config: type[Config], arguments: Sequence[str] | None, *, program: str, description: str) -> Config:
    """Build ``config`` from the command line; an invalid value is a usage error (exit code 2)."""
    parser = Parser(program=program, description=description)
    add_options(parser, config)
    return config_of(config, vars(parser.parse_args(arguments)), parser)


def config_of(config: type[Config], values: dict[str, Any], parser: argparse.ArgumentParser) -> Config:
    """Build ``config`` from parsed values; an invalid value exits like an error of ``parser``."""
    try:
        return config(**values)
    except ValueError as error:
        parser.error(str(error))


def add_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Add one option per field of ``config``; ``run_dir`` becomes ``--run-dir``."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag = "--" + field.name.replace("_", "-")
        details: dict[str, Any] = {"default": field.default, "help": field.metadata["help"], "dest": field.name}
        if hints[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **details)
            continue
        choices = field.metadata["choices"]
        details["metavar"] = f"{{{','.join(choices)}}}" if choices else field.name.rsplit("_", 1)[-1].upper()
        parser.add_argument(flag, type=_reader(_plain_type(hints[field.name]), choices), **details)


def require(condition: bool, message: str) -> None:
    """Raise if a configuration is invalid, in its ``__post_init__``."""
    if not condition:
        raise ValueError(message)


def echo(config: Any) -> dict[str, str | int | float | bool | None]:
    """Return the configuration as plain values, for the log and the checkpoint."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def as_option(name: str, value: Any) -> str:
    """Return how the command line sets a field; empty for None, which no option can state."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return "" if value is None else f"--{flag} {shlex.quote(str(value))}"


def fixed_values(config: Any) -> dict[str, Any]:
    """Return the values that a resumed run must share with the run it continues."""
    names = {field.name for field in dataclasses.fields(config) if field.metadata["fixed"]}
    return {name: value for name, value in echo(config).items() if name in names}


def _reader(kind: Callable[[str], Any], choices: Sequence[str]) -> Callable[[str], Any]:
    """Return a function that converts a value, and rejects it in the words of the other errors."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            expected = {int: "an integer", float: "a number"}.get(kind, "another value")  # type: ignore[call-overload]
            raise argparse.ArgumentTypeError(f"expected {expected}, got `{text}`") from None
        if choices and value not in choices:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(choices)}; got `{text}`")
        return value

    return read


def _plain_type(hint: Any) -> Any:
    """Return ``Path`` for ``Path | None``, because an option always has a value."""
    inner = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return inner[0] if inner else hint
