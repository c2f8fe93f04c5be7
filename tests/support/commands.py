"""Check that a command printed by envforge parses: the program exists, and so do its options and their values.

Placeholders are upper case (``DIR``, ``NAME``) or ``…``; they stand for any value and are not converted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from envforge.cli import COMMANDS, cli

# programs of others that hints may name; what follows them is not checked
OTHER_PROGRAMS = frozenset(
    {
        "apptainer",
        "apt-get",
        "cat",
        "cd",
        "chmod",
        "conda",
        "cp",
        "date",
        "df",
        "dmesg",
        "docker",
        "echo",
        "env",
        "eval",
        "exit",
        "export",
        "free",
        "getent",
        "find",
        "git",
        "grep",
        "head",
        "id",
        "jupyter",
        "kill",
        "kubectl",
        "ldconfig",
        "ldd",
        "ln",
        "ls",
        "lscpu",
        "lspci",
        "mamba",
        "micromamba",
        "minisign",
        "mkdir",
        "modinfo",
        "modprobe",
        "module",
        "mv",
        "nproc",
        "nvidia-ctk",
        "nvidia-smi",
        "pip",
        "pipx",
        "podman",
        "python",
        "rm",
        "sbatch",
        "scancel",
        "sky",
        "source",
        "srun",
        "ssh",
        "sudo",
        "systemctl",
        "tail",
        "test",
        "timedatectl",
        "torchrun",
        "ulimit",
        "unset",
        "update-alternatives",
        "uv",
        "wsl",
    }
)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_|.:/=-]*|.*…|.*\bX\b.*|\[.*\]")


class CommandFault(AssertionError):  # noqa: N818 - a fault in a text, not an error of a program
    """A printed command that would not run as printed."""


def check_command(line: str) -> None:
    """Raise ``CommandFault`` if a shell line does not parse."""
    if not line.strip() or "\n" in line:
        raise CommandFault(f"not one shell line: {line!r}")
    for words in _simple_commands(line):
        _check_words(words, line)


def _simple_commands(line: str) -> Iterator[list[str]]:
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError as error:
        raise CommandFault(f"{error}: {line}") from error
    current: list[str] = []
    for word in words:
        if word in {"&&", "||", "|", ";"}:
            yield current
            current = []
        else:
            current.append(word)
    yield current


def _check_words(words: list[str], line: str) -> None:
    while words and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", words[0]):
        words = words[1:]
    if not words:
        raise CommandFault(f"no program: {line}")
    if re.fullmatch("X+", words[0]):  # the complete command is filled in
        return
    if words[0] == "envforge":
        check_envforge(words[1:], line)
    elif words[0] not in OTHER_PROGRAMS and "/" not in words[0]:
        raise CommandFault(f"unknown program `{words[0]}`: {line}")
    elif words[:3] == ["python", "-m", "envforge"]:
        raise CommandFault(f"write `envforge`: {line}")


def check_envforge(words: list[str], line: str) -> None:
    """Raise ``CommandFault`` unless click's own parsers accept the arguments of ``envforge``."""
    redirected = next((i for i, word in enumerate(words) if word in {">", "<", ">>", "2>"}), len(words))
    words = words[:redirected]
    command, context = _resolve(words, line)
    rest = context.args
    # as click does: `run` passes unknown options on to the program
    context = click.Context(command, info_name=context.info_name, parent=context.parent, **command.context_settings)
    try:
        values, leftover, _ = command.make_parser(context).parse_args(list(rest))
    except click.ClickException as error:
        raise CommandFault(f"{error.format_message()}: {line}") from error
    if leftover and not command.allow_extra_args:
        raise CommandFault(f"unexpected arguments {leftover}: {line}")
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if parameter.required and value is None:
            raise CommandFault(f"missing {parameter.human_readable_name}: {line}")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            _check_value(parameter, each, line, context)


def _resolve(words: list[str], line: str) -> tuple[click.Command, click.Context]:
    command: click.Command = cli
    context = click.Context(cli, info_name="envforge", **cli.context_settings)
    while isinstance(command, click.Group):
        if not words:
            break
        if words[0].startswith("-"):
            break
        known = set(COMMANDS) if command is cli else set(command.list_commands(context))
        if words[0] not in known:
            raise CommandFault(f"no such command `{words[0]}`: {line}")
        found = command.get_command(context, words[0])
        assert found is not None
        context = click.Context(found, info_name=words[0], parent=context, **found.context_settings)
        command, words = found, words[1:]
    context.args = list(words)
    return command, context


def _check_value(parameter: click.Parameter, value: object, line: str, context: click.Context) -> None:
    if not isinstance(value, str) or _PLACEHOLDER.fullmatch(value) or isinstance(parameter.type, click.Path):
        return
    try:
        parameter.type.convert(value, parameter, context)
    except click.ClickException as error:
        raise CommandFault(f"{error.format_message()}: {line}") from error
