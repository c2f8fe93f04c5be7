"""Define the command line, run one command, and report how it failed. Only this package prints.

Each command is imported when it runs, so that ``envforge --help`` starts as fast as click itself.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from envforge import __version__
from envforge.base.envelope import failure
from envforge.base.process import exit_process
from envforge.cli.streams import StdoutError, discard_stdout, prepare_streams, write_stderr
from envforge.errors import EnvforgeError, OutsideError


@dataclass(frozen=True, slots=True)
class _Entry:
    """A command that isn't imported yet: ``module:attribute``, and its line in the help."""

    target: str
    short_help: str


COMMANDS = {
    "detect": _Entry("envforge.cli.detect:detect", "Show the GPU, the driver, and what a PyTorch build must support."),
    "explain": _Entry("envforge.cli.explain:explain", "Show which PyTorch build this machine supports, and why."),
    "new": _Entry("envforge.cli.new:new", "Create a project: environment, lockfile, training code, tests."),
    "update": _Entry("envforge.cli.update:update", "Update a project to its template, and keep your edits."),
    "templates": _Entry("envforge.cli.templates:templates", "List the templates, or create and test your own."),
    "lock": _Entry("envforge.cli.lock:lock", "Lock environment.yml into conda-lock.yml, or check the lockfile."),
    "add": _Entry("envforge.cli.change:add", "Add packages to environment.yml and update the lockfile."),
    "remove": _Entry("envforge.cli.change:remove", "Remove packages from environment.yml and update the lockfile."),
    "install": _Entry("envforge.cli.install:install", "Install the locked environment and verify every file."),
    "audit": _Entry("envforge.cli.audit:audit", "Check that the environment matches its lockfile."),
    "verify": _Entry("envforge.cli.verify:verify", "Check that the machine and the environment can train."),
    "compare": _Entry("envforge.cli.compare:compare", "Compare verify records of two machines or a fleet."),
    "diff": _Entry("envforge.cli.diff:diff", "Show the differences between two lockfiles."),
    "export": _Entry("envforge.cli.export:export", "Convert a lockfile for conda, pip, uv, pixi, or Docker."),
    "run": _Entry("envforge.cli.shell:run", "Run a command in the environment."),
    "shell": _Entry("envforge.cli.shell:shell", "Start a shell in which the environment is active."),
    "info": _Entry("envforge.cli.info:info", "Show paths, versions, settings, and the machine for a bug report."),
    "kernel": _Entry("envforge.cli.kernel:kernel", "Register the environment with Jupyter."),
    "clean": _Entry("envforge.cli.clean:clean", "Remove caches and leftovers of interrupted commands."),
    "bundle": _Entry("envforge.cli.bundle:bundle", "Pack a lockfile and all its packages into one archive."),
    "lockfiles": _Entry("envforge.cli.lockfiles:lockfiles", "Share lockfiles in a catalogue of your team."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"`{COMMANDS[cmd_name].target}` is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.short_help) for name, entry in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="envforge")
def cli() -> None:
    """Create, lock, install, and verify PyTorch environments and mixed-precision projects for NVIDIA GPUs."""


def run_process() -> NoReturn:
    """Run the command line of this process, and exit."""
    gc.set_threshold(50_000)  # in a short run, frequent garbage collection costs a tenth of the time
    if not prepare_streams() and sys.argv[1:2] != ["run"]:  # `envforge run` passes its streams to the command unchanged
        error = OutsideError(
            "stdout is closed", hint="to discard the output, redirect it to `/dev/null`", code="stdout"
        )
        _complain("envforge", error, as_json=False)
        exit_process(error.exit_code)
    code = main()
    try:
        sys.stdout.flush()
    except StdoutError as error:
        code = _report_stdout(error)
    exit_process(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0 done, 1 you can fix it or a check failed, 2 usage, 3 an external failure, 70 a bug of envforge, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), "envforge")
    try:
        with cli.make_context("envforge", words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as stop:
        write_stderr(stop.format_message())
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        write_stderr("error: interrupted")
        return 130
    except StdoutError as error:
        return _report_stdout(error)
    except Exception as error:  # noqa: BLE001 - the last line of defense: report a bug as one, with its traceback
        failed = _as_envforge_error(error, command)
        # the arguments of `envforge run` belong to the command that it starts
        _complain(command, failed, as_json="--json" in words and command != "run")
        return failed.exit_code
    return 0


class _BugError(EnvforgeError):
    exit_code = 70


def _as_envforge_error(error: Exception, command: str) -> EnvforgeError:
    if isinstance(error, EnvforgeError):
        return error
    if isinstance(error, click.ClickException):
        from envforge.cli.usage import usage_error

        return usage_error(error, command)
    if isinstance(error, OSError):
        return _system_error(error)
    import traceback

    trace = "".join(traceback.format_exception(error)).rstrip()
    hint = "please report this bug and include the command line and the traceback"
    return _BugError(f"envforge {__version__} failed with an internal error:\n\n{trace}", hint=hint, code="bug")


def _system_error(error: OSError) -> OutsideError:
    if isinstance(error, FileNotFoundError) and not _has_working_directory():
        return OutsideError(
            "the working directory no longer exists", hint="change to another directory", code="operating-system"
        )
    place = f" at `{error.filename}`" if error.filename is not None else ""
    return OutsideError(f"system error{place}: {error.strerror or error}", code="operating-system")


def _has_working_directory() -> bool:
    import os

    try:
        os.getcwd()  # noqa: PTH109 - only whether it exists
    except FileNotFoundError:
        return False
    return True


def _report_stdout(error: StdoutError) -> int:
    """Report that stdout can't be written; stay silent if its reader closed the pipe, as ``| head`` does."""
    discard_stdout()
    if not error.is_pipe_closed:
        write_stderr(f"error: can't write to stdout: {error}")
    return OutsideError.exit_code


def _complain(command: str, error: EnvforgeError, *, as_json: bool) -> None:
    if as_json:
        try:
            click.echo(failure(command, error))
        except StdoutError:
            discard_stdout()
    write_stderr(f"error: {error.message}")
    if error.hint:
        write_stderr(f"\nhint: {error.hint}")
