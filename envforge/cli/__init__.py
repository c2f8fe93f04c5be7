"""Define the command line, run one command, and report how it failed. Only this package prints.

Each command is imported when it runs, so that ``envforge --help`` starts as fast as click itself.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from click.exceptions import MissingParameter, NoSuchOption, UsageError

from envforge import __version__
from envforge.base.envelope import failure, finding, success, to_json
from envforge.errors import EnvforgeError, Hint, OutsideError, exit_process


@dataclass(frozen=True, slots=True)
class _LazyCommand:
    """A command that isn't imported yet: ``module:attribute``, and its line in the help."""

    target: str
    short_help: str


COMMANDS = {
    name: _LazyCommand(f"envforge.cli.{module}:{name}", short_help)
    for name, module, short_help in (
        ("detect", "detect", "Show the GPU, the driver, and what a PyTorch build must support."),
        ("explain", "explain", "Show which PyTorch build this machine supports, and why."),
        ("facts", "facts", "Show or refresh the facts about releases, kernels, and drivers."),
        ("new", "new", "Create a project: environment, lockfile, training code, tests."),
        ("update", "update", "Update a project to its template, and keep your edits."),
        ("templates", "templates", "List the templates, or create and test your own."),
        ("lock", "lock", "Lock environment.yml into conda-lock.yml, or check the lockfile."),
        ("add", "change", "Add packages to environment.yml and update the lockfile."),
        ("remove", "change", "Remove packages from environment.yml and update the lockfile."),
        ("install", "install", "Install the locked environment and verify every file."),
        ("audit", "audit", "Check that the environment matches its lockfile."),
        ("verify", "verify", "Check that the machine and the environment can train."),
        ("compare", "compare", "Compare verify records of two machines or a fleet."),
        ("diff", "diff", "Show the differences between two lockfiles."),
        ("export", "export", "Convert a lockfile for conda, pip, uv, pixi, or Docker."),
        ("run", "shell", "Run a command in the environment."),
        ("shell", "shell", "Start a shell in which the environment is active."),
        ("info", "info", "Show paths, versions, settings, and the machine for a bug report."),
        ("kernel", "shell", "Register the environment with Jupyter."),
        ("clean", "clean", "Remove caches and leftovers of interrupted commands."),
        ("bundle", "bundle", "Pack a lockfile and all its packages into one archive."),
        ("lockfiles", "lockfiles", "Share lockfiles in a catalogue of your team."),
    )
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


def print_result(
    command: str, result: object, text: str, *, as_json: bool, is_ok: bool = True, hints: Sequence[Hint] = ()
) -> None:
    """Print ``result`` as JSON or ``text``; without ``is_ok``, also print ``hints`` after a text, and exit with 1."""
    if as_json:
        click.echo((success if is_ok else finding)(command, to_json(result)))
    else:
        click.echo(text)
    if is_ok:
        return
    if hints and not as_json:
        click.echo(f"\nhint: {'; '.join(map(str, hints))}", err=True)
    raise click.exceptions.Exit(1)


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return lines of at most ``width`` columns, which begin with ``first`` and ``rest``; no word is broken."""
    import textwrap

    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


class StdoutError(Exception):
    """A failure to write to stdout. ``is_pipe_closed`` is true if its reader has exited, as in ``| head``.

    It isn't an ``OSError``, so that no handler for files or pipes of other programs catches it.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.is_pipe_closed = isinstance(cause, BrokenPipeError)


# all but colors such as `ESC [ 1 m`: the last defense against names in documents that anyone may have written
_CONTROLS = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str) -> str:
    """Return a text for a terminal in which control characters, and those that reverse its direction, are escaped."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


class _Stream(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        return super().write(without_controls(text))


class _Stdout(_Stream):
    def write(self, text: str, /) -> int:
        with _as_stdout_error():
            return super().write(text)

    def flush(self) -> None:
        with _as_stdout_error():
            super().flush()


def _prepare_streams() -> None:
    """Make failures of stdout recognizable, and replace closed streams, which Python sets to None."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8")  # noqa: SIM115, PTH123 - open until the end
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # keeps it open, too
    stdout: Any = sys.stdout
    stderr: Any = sys.stderr
    # rich still writes to `sys.__stderr__`, because a progress bar moves the cursor
    sys.stderr = _Stream(stderr.buffer, **_options_of(stderr))
    options = _options_of(stdout)
    # detached, because the old stream would close the file when it is collected
    sys.stdout = _Stdout(stdout.detach(), **options)


def _options_of(stream: Any) -> dict[str, Any]:
    """Return the arguments with which a stream writes as ``stream`` does."""
    names = ("encoding", "errors", "line_buffering", "write_through")
    return {name: getattr(stream, name) for name in names} | {"newline": None if os.name == "nt" else "\n"}


def _discard_stdout() -> None:
    """Send the remaining output to ``/dev/null``, so that the interpreter can flush it when it exits."""
    _discard(1)


def _write_stderr(text: str) -> None:
    """Write a line to stderr; if that fails too, no stream is left to report it on."""
    try:
        click.echo(text, err=True)
    except OSError:
        _discard(2)


def _discard(descriptor: int) -> None:
    # below Python's streams, whose buffers the interpreter still flushes when it exits
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextmanager
def _as_stdout_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutError(error) from error


def run_process() -> NoReturn:
    """Run the command line of this process, and exit."""
    gc.set_threshold(50_000)  # in a short run, frequent garbage collection costs a tenth of the time
    _prepare_streams()
    try:
        code = main()
        sys.stdout.flush()
    except SystemExit as stop:  # `ending_children`
        _write_stderr("error: ended by a signal")
        code = int(stop.code or 1)
    except StdoutError as error:
        code = _report_stdout(error)
    exit_process(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0 done, 1 you can fix it or a check failed, 2 usage, 3 an external failure, 70 a bug of envforge, 130 interrupted,
    129 and 143 ended by a signal.
    """
    # read before click parses them, because the report of a usage error needs them, too
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), "envforge")
    try:
        with cli.make_context("envforge", words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    # click counts a group without a command as wrong usage, but its text is the help
    except click.exceptions.NoArgsIsHelpError as stop:
        _write_stderr(stop.format_message())
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        _write_stderr("error: interrupted")
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
        return _usage_error(error, command)
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
    try:
        os.getcwd()  # noqa: PTH109 - only whether it exists
    except FileNotFoundError:
        return False
    return True


def _report_stdout(error: StdoutError) -> int:
    """Report that stdout can't be written; stay silent if its reader closed the pipe, as ``| head`` does."""
    _discard_stdout()
    if not error.is_pipe_closed:
        _write_stderr(f"error: can't write to stdout: {error}")
    return OutsideError.exit_code


def _complain(command: str, error: EnvforgeError, *, as_json: bool) -> None:
    # errors end up in logs of CI
    if "@" in error.message or ":/" in error.message:  # a URL may be in the place of a file, a package, or a version
        from envforge.base.urls import hide_secrets

        error.message = hide_secrets(error.message)
    error.hints = tuple(Hint(_without_secrets(hint.purpose), _without_secrets(hint.command)) for hint in error.hints)
    if as_json:
        try:
            click.echo(failure(command, error))
        except StdoutError:
            _discard_stdout()
    # with `--json` too: programs read stdout, people read stderr
    _write_stderr(f"error: {error.message}")
    if error.hint:
        _write_stderr(f"\nhint: {error.hint}")


def _without_secrets(text: str) -> str:
    """Hide the secrets of a URL in a hint; a template in a subdirectory keeps the fragment that names it."""
    if "@" not in text and ":/" not in text:
        return text
    from envforge.base.urls import has_secrets, hide_secrets

    return text if "#subdirectory=" in text and not has_secrets(text) else hide_secrets(text)


class _InvalidUsageError(EnvforgeError):
    """A command line that click can't parse."""

    exit_code = 2


def _usage_error(error: click.ClickException, command: str) -> _InvalidUsageError:
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
    return _InvalidUsageError(message, hint=hints, code="usage")


def _did_you_mean(name: str, known: list[str], *, before: str = "") -> list[Hint]:
    from envforge.base.suggest import nearest

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
