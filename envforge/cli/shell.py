"""Run a command or a shell in the environment, or register it as a Jupyter kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click
from msgspec import Struct

from envforge.cli import print_result
from envforge.cli.options import Argument, EnvironmentOptions, JsonOption, Option, takes
from envforge.errors import EnvforgeError, Hint, RequestError

if TYPE_CHECKING:
    from envforge.prefix.locate import ChosenEnvironment


class ShellOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge shell``."""

    environment: EnvironmentOptions
    shell: Annotated[
        Literal["bash", "zsh", "fish", "dash", "sh"] | None, Option("Start this shell.  [default: the shell in SHELL]")
    ]
    is_printed: Annotated[bool, Option("Print an activation script for `eval` instead.", "--print")]


@click.command("shell")
@takes(ShellOptions)
def shell(options: ShellOptions) -> None:
    """Start your shell, with your own settings, in the environment.

    To leave it, run `exit` or press Ctrl-D. To activate the environment in a running shell, run
    eval "$(envforge shell --print)", or in fish, envforge shell --print | source.
    """
    from envforge.prefix.activation import activation, activation_text, script_suffix, shell_of

    environment = options.environment.usable()
    chosen = options.shell or shell_of(os.environ)
    if options.is_printed:
        active = activation(environment.prefix, environment.label, os.environ, suffix=script_suffix(chosen))
        click.echo(activation_text(active, chosen), nl=False)
        return
    _enter(environment, chosen)


def _enter(environment: ChosenEnvironment, shell: str) -> None:
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
    if outer == str(environment.prefix) and outer in {os.environ.get("CONDA_PREFIX"), os.environ.get("VIRTUAL_ENV")}:
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


class RunOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge run``."""

    environment: EnvironmentOptions
    command: Annotated[tuple[str, ...], Argument(type=click.UNPROCESSED, metavar="CMD [ARGUMENT]...")]


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@takes(RunOptions)
def run(options: RunOptions) -> None:
    """Run a command in the environment, activated as conda activates it.

    Exits with the exit code of CMD, with 126 if CMD can't be started, or with 127 if it isn't found. Write options of
    envforge before CMD; everything after CMD belongs to CMD.
    """
    from envforge.prefix.activation import activation, become, foreign_program

    environment, command = options.environment.usable(), options.command
    words = command[1:] if command[0] == "--" else command
    active = activation(environment.prefix, environment.label, os.environ)

    def add_pip() -> str:
        from envforge.prefix.kernel import file_option

        return f"envforge add pip{file_option(environment)} && {environment.install_command}"

    if words and (warning := foreign_program(words[0], active, os.environ, add_pip)):
        click.echo(f"warning: {warning}", err=True)
    become(words, active, os.environ)


class KernelOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge kernel``."""

    environment: EnvironmentOptions
    kernel: Annotated[str | None, Option("Name of the kernel.  [default: from the project's name]", metavar="NAME")]
    display_name: Annotated[str | None, Option("Name that Jupyter shows.  [default: Python (PROJECT)]", metavar="TEXT")]
    is_removed: Annotated[bool, Option("Remove the kernel of this environment.", "--remove")]
    as_json: JsonOption


@click.command("kernel")
@takes(KernelOptions)
def kernel(options: KernelOptions) -> None:
    """Register the environment as a Jupyter kernel.

    Requires ipykernel in the environment; Jupyter can be installed elsewhere. Run it again after an install that
    changes the environment's variables or activation scripts.
    """
    from envforge.prefix import kernel as kernels

    name, use = options.kernel, options.environment
    environment = use.meant() if options.is_removed else use.usable()
    folder = kernels.kernels_folder(os.environ, Path.home()) / kernels.kernel_name(name, environment)
    if options.is_removed:
        kernels.remove(environment, folder)
        words = f"removed kernel {folder.name} ({folder})"
    else:
        title = options.display_name or f"Python ({environment.label})"
        kernels.register(environment, kernels.Kernel(folder=folder, display_name=title), os.environ)
        undo = " ".join(filter(None, ["envforge kernel --remove", environment.option, name and f"--kernel {name}"]))
        words = f"registered kernel {folder.name} ({title}) in {folder}\nto remove it, run `{undo}`"
    result = {"kernel": folder.name, "folder": folder, "prefix": environment.prefix, "removed": options.is_removed}
    print_result("kernel", result, words, as_json=options.as_json)
