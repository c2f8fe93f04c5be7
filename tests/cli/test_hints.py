"""Test that every command in a hint parses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from envforge.cli import COMMANDS, cli
from envforge.errors import EnvforgeError, Hint
from tests.support.commands import CommandFault, check_command

PACKAGE = Path(__file__).parents[2] / "envforge"
AREAS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})
_COMMAND_IN_PROSE = re.compile(rf"\benvforge (?:{'|'.join(COMMANDS)})\b(?! FILE)")
_OPTION = re.compile(r"`(--[a-z][a-z-]+)")


def text_of(node: ast.expr) -> str | None:
    """The text of a string expression; each value that is filled in becomes the placeholder ``X``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
        return "".join(parts)
    return None


def hint_arguments(area: str) -> Iterator[tuple[str, str, str]]:
    """Each literal text of a hint: the place, ``purpose`` or ``command``, and the text."""
    paths = [PACKAGE / area] if (PACKAGE / area).is_file() else sorted((PACKAGE / area).rglob("*.py"))
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            is_hint = isinstance(node.func, ast.Name) and node.func.id == "Hint"
            purpose = node.args[0] if is_hint and node.args else named.get("purpose" if is_hint else "hint")
            command = node.args[1] if is_hint and len(node.args) > 1 else named.get("command")
            if not is_hint and "hint" not in named:
                continue
            for kind, value in (("purpose", purpose), ("command", command)):
                for text in texts_in(value):
                    yield f"{path.relative_to(PACKAGE.parent)}:{node.lineno}", kind, text


def texts_in(value: ast.expr | None) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from texts_in(value.body)
        yield from texts_in(value.orelse)
    elif isinstance(value, ast.BinOp):
        left, right = list(texts_in(value.left)), list(texts_in(value.right))
        yield from (a + b for a in left or ["X"] for b in right or ["X"])
    elif value is not None:
        text = text_of(value)
        if text is not None:
            yield text


@pytest.mark.parametrize("area", AREAS)
def test_commands_of_hints_parse(area: str) -> None:
    faults = []
    for place, kind, text in hint_arguments(area):
        if kind == "command" and text:
            try:
                check_command(text)
            except CommandFault as fault:
                faults.append(f"{place}: {fault}")
    assert faults == []


@pytest.mark.parametrize("area", AREAS)
def test_purposes_of_hints_hold_no_command(area: str) -> None:
    faults = [
        f"{place}: {text}"
        for place, kind, text in hint_arguments(area)
        if kind == "purpose" and (_COMMAND_IN_PROSE.search(text) or re.search(r"(?<!`)(?<![\w-])--[a-z]", text))
    ]
    assert faults == []


@pytest.mark.parametrize("area", AREAS)
def test_options_in_hints_exist(area: str) -> None:
    known = all_options()
    faults = [
        f"{place}: {option}"
        for place, kind, text in hint_arguments(area)
        if kind == "purpose"
        for option in _OPTION.findall(text)
        if option not in known
    ]
    assert faults == []


def all_options() -> set[str]:
    context = click.Context(cli, **cli.context_settings)
    found: set[str] = {"--help", "--version"}
    commands = [cli.get_command(context, name) for name in COMMANDS]
    while commands:
        command = commands.pop()
        assert command is not None
        found.update(option for parameter in command.params for option in parameter.opts + parameter.secondary_opts)
        if isinstance(command, click.Group):
            commands += [command.get_command(context, name) for name in command.list_commands(context)]
    return found


def test_error_renders_purpose_then_command() -> None:
    error = EnvforgeError("x", hint="to update the lockfile", command="envforge lock", code="example")
    assert error.hint == "to update the lockfile, run `envforge lock`"
    assert error.commands == ("envforge lock",)


def test_error_separates_two_ways_out() -> None:
    ways = (Hint("to update the lockfile", "envforge lock"), Hint("to install it as is, omit `--locked`"))
    error = EnvforgeError("x", hint=ways, code="example")
    assert error.hint == "to update the lockfile, run `envforge lock`; to install it as is, omit `--locked`"
    assert error.commands == ("envforge lock",)


@pytest.mark.parametrize(
    "line",
    [
        "envforge lok",
        "envforge lock --frobnicate",
        "envforge lock --check --variant",
        "envforge verify --limit soon",
        "envforge templates shw x",
        "enforge lock",
        "python -m envforge lock",
        "cd x && envforge instal",
    ],
)
def test_command_check_rejects(line: str) -> None:
    with pytest.raises(CommandFault):
        check_command(line)
