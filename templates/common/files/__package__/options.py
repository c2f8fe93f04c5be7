"""Turn the fields of a frozen dataclass into options of the command line, and the arguments into a value of it."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")


def option(default: Any, help: str, *, choices: Sequence[str] = (), fixed: bool = False) -> Any:
    """Return a field with its help text. ``fixed``: a resumed run must have the same value."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "fixed": fixed})


def parse(config: type[Config], arguments: Sequence[str] | None, *, program: str, description: str) -> Config:
    """Build ``config`` from the command line; an invalid value is a usage error (exit code 2)."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
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
        if field.metadata["choices"]:
            details["choices"] = field.metadata["choices"]
        else:
            details["metavar"] = field.name.rsplit("_", 1)[-1].upper()
        parser.add_argument(flag, type=_plain_type(hints[field.name]), **details)


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


def _plain_type(hint: Any) -> Any:
    """Return ``Path`` for ``Path | None``, because an option always has a value."""
    inner = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return inner[0] if inner else hint
