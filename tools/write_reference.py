"""Write docs/reference.md from the commands: each command, option, argument, and environment variable.

Run ``python -m tools.write_reference``. A test compares the file with the commands.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import click

from envforge.cli import COMMANDS, cli

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """# Reference

This page is generated from the commands by `python -m tools.write_reference`.

## Exit codes

| code | meaning |
|---|---|
| 0 | The command succeeded. |
| 1 | An error that you can fix, or a failed check. |
| 2 | A usage error: an unknown option, an invalid value, or a missing argument. |
| 3 | An external failure: network, disk, closed or full output, or another program. |
| 70 | An internal error of envforge. |
| 130 | The command was interrupted. |

`envforge run` exits with the exit code of its command, with 126 if the command can't be started, or with 127 if it
isn't found.

With `--json`, a command prints one document on stdout, even if it fails: `{"schema_version": 1, "command": …,
"ok": …}`, and either `"result": …` or `"error": {"code", "message", "hint", "commands"}`.
"""


def reference() -> str:
    """Return the text of the reference."""
    context = click.Context(cli, info_name="envforge", **cli.context_settings)
    sections = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is None:
            raise LookupError(name)
        sections.extend(_sections(command, click.Context(command, parent=context, info_name=name)))
    return "\n".join([HEAD, *sections])


def _sections(command: click.Command, context: click.Context) -> list[str]:
    """Return the section of a command, and those of its subcommands if it is a group."""
    found = [_section(command, context)]
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            found += _sections(each, click.Context(each, parent=context, info_name=name))
    return found


def _section(command: click.Command, context: click.Context) -> str:
    usage = command.get_usage(context).removeprefix("Usage: ")
    help_text = "\n\n".join(_paragraph(part) for part in inspect.cleandoc(command.help or "").split("\n\n"))
    rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context))]
    return "\n".join([f"## {context.command_path}", "", f"`{usage}`", "", help_text, "", *rows, ""])


def _paragraph(text: str) -> str:
    """Return a paragraph on one line; click marks one whose lines must be kept with a backspace character."""
    marker, _, kept = text.partition("\n")
    if marker.strip() == "\b":
        return f"```text\n{textwrap.dedent(kept).rstrip()}\n```"
    return " ".join(text.split())


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None:
        return None
    names, text = record
    return f"- `{names}`" + (f" — {' '.join(text.split())}" if text else "")


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
