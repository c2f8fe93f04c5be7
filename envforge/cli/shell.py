"""Run a command or a shell in the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import prefix_options, usable

if TYPE_CHECKING:
    from envforge.prefix.locate import Meant


@click.command("shell")
@prefix_options
@click.option(
    "--shell",
    "wanted",
    type=click.Choice(["bash", "zsh", "fish", "dash", "sh"]),
    help="Start this shell.  [default: the shell in SHELL]",
)
@click.option("--print", "is_printed", is_flag=True, help="Print an activation script for `eval` instead.")
def shell(prefix: Path | None, name: str | None, wanted: str | None, is_printed: bool) -> None:
    """Start your shell, with your own settings, in the environment.

    To leave it, run `exit` or press Ctrl-D. To activate the environment in a running shell, run
    eval "$(envforge shell --print)", or in fish, envforge shell --print | source.
    """
    from envforge.prefix.activation import script_suffix, shell_of

    environment = usable(prefix, name)
    chosen = wanted or shell_of(os.environ)
    if is_printed:
        from envforge.prefix.activation import activation, activation_text

        active = activation(environment.prefix, environment.label, os.environ, suffix=script_suffix(chosen))
        click.echo(activation_text(active, chosen), nl=False)
        return
    _enter(environment, chosen)


def _enter(environment: Meant, shell: str) -> None:
    from envforge.errors import EnvforgeError, Hint, RequestError
    from envforge.prefix.activation import SHELL_VARIABLE, shell_start, start

    if os.name == "nt":
        raise EnvforgeError(
            "`envforge shell` does not support Windows",
            hint="to start PowerShell in the environment",
            command="envforge run powershell",
            code="no-windows-shell",
        )
    if not sys.stdin.isatty():
        raise RequestError(
            "`envforge shell` requires a terminal, but stdin is not a terminal",
            hint=(
                Hint("to run a single command", "envforge run CMD"),
                Hint("to activate the environment in a script", 'eval "$(envforge shell --print)"'),
            ),
            code="no-terminal",
        )
    outer = os.environ.get(SHELL_VARIABLE)
    if outer == str(environment.prefix) and os.environ.get("CONDA_PREFIX") == outer:
        raise EnvforgeError(
            f"this shell is already in the environment `{outer}`",
            hint="to leave it",
            command="exit",
            code="already-in-shell",
        )
    if outer:
        click.echo(f"note: this shell runs inside the shell for {outer}; `exit` returns to it", err=True)
    path = os.environ.get("SHELL", "")
    program = path if Path(path).name == shell else shell
    start(shell_start(shell, program, environment.prefix, os.environ))


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@prefix_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD [ARGUMENT]...")
def run(prefix: Path | None, name: str | None, command: tuple[str, ...]) -> None:
    """Run a command in the environment, activated as conda activates it.

    Exits with the exit code of CMD, with 126 if CMD can't be started, or with 127 if it isn't found. Write options of
    envforge before CMD; everything after CMD belongs to CMD.
    """
    from envforge.prefix.activation import activation, become

    environment = usable(prefix, name)
    words = command[1:] if command[0] == "--" else command
    become(words, activation(environment.prefix, environment.label, os.environ), os.environ)
