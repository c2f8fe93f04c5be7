"""``envforge run``: replace this process with a command inside the environment."""

from __future__ import annotations

import os
from pathlib import Path

import click

from envforge.cli.prefix_options import prefix_options, usable


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@prefix_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD [ARGUMENT]...")
def run(prefix: Path | None, name: str | None, command: tuple[str, ...]) -> None:
    """Run a command in the environment, activated as conda activates it.

    Exits with the exit code of CMD, with 126 if CMD can't be started, or with 127 if it isn't found. Write options of
    envforge before CMD; everything after CMD belongs to CMD.
    """
    from envforge.daily.activation import activation
    from envforge.daily.start import become

    environment = usable(prefix, name)
    words = command[1:] if command[0] == "--" else command
    become(words, activation(environment.prefix, environment.label, os.environ), os.environ)
