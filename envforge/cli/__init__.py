"""The command line: options in, one request, one call, the result rendered. Only here is anything printed.

Commands are loaded when they are asked for, so that ``envforge --help`` starts as fast as click itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from envforge import __version__
from envforge.errors import EnvforgeError, OutsideError
from envforge.process_end import leave
from envforge.report import failure


@dataclass(frozen=True, slots=True)
class _Entry:
    """A command before it is loaded: ``module:attribute`` and its line in the help."""

    target: str
    short_help: str


COMMANDS = {
    "detect": _Entry("envforge.cli.detect:detect", "Show the GPU, the driver, and what PyTorch can use of them."),
    "explain": _Entry("envforge.cli.explain:explain", "Show which PyTorch builds fit this machine, and why."),
    "new": _Entry("envforge.cli.new:new", "Create a project: environment, lockfile, training code, tests."),
    "update": _Entry("envforge.cli.update:update", "Bring a project up to its template, with your edits kept."),
    "templates": _Entry("envforge.cli.templates:templates", "Show templates; start and test one of your own."),
    "lock": _Entry("envforge.cli.lock:lock", "Lock environment.yml into conda-lock.yml, or check that they agree."),
    "add": _Entry("envforge.cli.add:add", "Add packages to environment.yml and lock it, or change nothing."),
    "remove": _Entry(
        "envforge.cli.remove:remove", "Remove packages from environment.yml and lock it, or change nothing."
    ),
    "install": _Entry(
        "envforge.cli.install:install", "Install the locked environment, exactly, with every byte checked."
    ),
    "audit": _Entry("envforge.cli.audit:audit", "Compare the environment with its lock, file by file."),
    "verify": _Entry(
        "envforge.cli.verify:verify", "Check that this machine, this environment and this GPU really train."
    ),
    "compare": _Entry("envforge.cli.compare:compare", "Compare what verify observed on two machines or a fleet."),
    "diff": _Entry("envforge.cli.diff:diff", "Show what changes between two locks, also for the machine."),
    "export": _Entry("envforge.cli.export:export", "Write the lock for conda, pip, uv, pixi or Docker."),
    "run": _Entry("envforge.cli.run:run", "Run a command in the environment."),
    "shell": _Entry("envforge.cli.shell:shell", "Work in the environment: a shell in which it is active."),
    "info": _Entry("envforge.cli.info:info", "Show paths, versions, configuration and machine, for a bug report."),
    "kernel": _Entry("envforge.cli.kernel:kernel", "Register the environment with Jupyter."),
    "clean": _Entry("envforge.cli.clean:clean", "Remove caches and unfinished work, with their sizes."),
    "bundle": _Entry("envforge.cli.bundle:bundle", "Put the lock and all its packages into one archive."),
    "lockfiles": _Entry("envforge.cli.lockfiles:lockfiles", "Share solved locks in the catalogue of a team."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(_no_such_command(cmd_name))
        module, attribute = COMMANDS[cmd_name].target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"`{COMMANDS[cmd_name].target}` is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.short_help) for name, entry in COMMANDS.items()])


def _no_such_command(name: str) -> str:
    from envforge.nearest import nearest

    near = nearest(name, COMMANDS, alike=0.6)
    suggestion = f"Did you mean `{near}`? " if near else ""
    return f"There is no command `{name}`. {suggestion}The commands are {', '.join(COMMANDS)}."


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="envforge")
def cli() -> None:
    """Take a machine with an NVIDIA driver to a verified mixed-precision PyTorch project in a locked environment."""


def run() -> NoReturn:
    """Run the command line of this process and end it: the entry point of ``envforge``."""
    gc.set_threshold(50_000)  # a short life: to look for garbage all the time costs a tenth of it
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0 done, 1 the user can fix it or a check failed, 2 usage, 3 the outside world failed, 70 a bug of ours,
    130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), "envforge")
    try:
        with cli.make_context("envforge", words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing was left half-written", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has gone: what is left goes nowhere
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug is reported as one, with its trace
        fault = _as_envforge_error(error)
        usage = error if isinstance(error, click.ClickException) else None
        # the words of `envforge run` are those of the command that it becomes
        _complain(command, fault, usage, as_json="--json" in words and command != "run")
        return fault.exit_code
    return 0


class _UsageError(EnvforgeError):
    exit_code = 2


class _BugError(EnvforgeError):
    exit_code = 70


def _as_envforge_error(error: Exception) -> EnvforgeError:
    if isinstance(error, EnvforgeError):
        return error
    if isinstance(error, click.ClickException):
        return _UsageError(error.format_message(), code="usage")
    if isinstance(error, OSError):
        return OutsideError(f"the operating system refused: {error}", code="operating-system")
    import traceback

    trace = "".join(traceback.format_exception(error)).rstrip()
    hint = "please report it with the command line and this trace"
    return _BugError(f"this is a bug of envforge {__version__}:\n\n{trace}", hint=hint, code="bug")


def _complain(command: str, error: EnvforgeError, usage: click.ClickException | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(failure(command, error))
    if usage is not None:
        usage.show()
        return
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)
