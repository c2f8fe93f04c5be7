"""Test the exit code, the message on stderr, and the JSON envelope of each kind of failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import click
import pytest
from msgspec import Struct

from envforge.cli import COMMANDS, _LazyCommand, cli, main
from envforge.cli.options import Argument, JsonOption, takes
from envforge.errors import EnvforgeError, OutsideError, RequestError

FAULTS = {
    "user": (EnvforgeError("wanted `a`, found `b`", hint="envforge detect", code="example"), 1, "example"),
    "request": (RequestError("no such thing", code="example"), 2, "example"),
    "outside": (OutsideError("no network", code="example"), 3, "example"),
    "system": (OSError(28, "No space left on device"), 3, "operating-system"),
    "bug": (ZeroDivisionError("division by zero"), 70, "bug"),
    "interrupt": (KeyboardInterrupt(), 130, None),
}


class FailingOptions(Struct, frozen=True, kw_only=True):
    fault: Annotated[str, Argument()]
    as_json: JsonOption


@click.command()
@takes(FailingOptions)
def failing(options: FailingOptions) -> None:
    """Fail in the way that is named."""
    raise FAULTS[options.fault][0]


@pytest.fixture
def with_failing_command() -> Iterator[None]:
    COMMANDS["failing"] = _LazyCommand("tests.cli.test_exit_codes:failing", "Fail.")
    yield
    del COMMANDS["failing"]


@pytest.mark.usefixtures("with_failing_command")
@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_failure_has_its_exit_code(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, exit_code, _ = FAULTS[fault]
    assert main(["failing", fault]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert str(error.strerror if isinstance(error, OSError) else error) in captured.err


@pytest.mark.usefixtures("with_failing_command")
@pytest.mark.parametrize("fault", [name for name, (_, _, code) in FAULTS.items() if code])
def test_json_envelope_is_printed_on_failure_too(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["failing", fault, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["command"], document["ok"]) == (1, "failing", False)
    assert document["error"]["code"] == FAULTS[fault][2]


@pytest.mark.usefixtures("with_failing_command")
def test_hint_stands_after_a_blank_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["failing", "user"])
    assert capsys.readouterr().err == "error: wanted `a`, found `b`\n\nhint: envforge detect\n"


def _options() -> Iterator[tuple[str, ...]]:
    """Yield each option that takes a value, after the words of its command, which gets a value for each argument."""
    left: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while left:
        words, command = left.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                left += [((*words, name), inner)] if inner is not None else []
            continue
        arguments = ["x" for each in command.params if isinstance(each, click.Argument) and each.required]
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and not option.count:
                yield (*words, *arguments, option.opts[-1])


PASSWORD = "S3CRETp4ss"
ODD_VALUES = (f"http://user:{PASSWORD}@127.0.0.1:1/x", "9" * 5000, "nan", "1e999", "[::1", "~nobody/x", "a\x1b[2J")


@pytest.mark.parametrize("words", list(_options()), ids=" ".join)
def test_no_value_of_an_option_is_an_internal_error(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = {value: (main([*words, value]), "\n".join(capsys.readouterr())) for value in ODD_VALUES}
    assert {code: text for code, text in found.values() if code not in {0, 1, 2, 3}} == {}
    lines = [line for code, text in found.values() if code for line in text.splitlines()]
    # a report is written to any path
    assert [line for line in lines if PASSWORD in line and not line.lower().startswith("wrote ")] == []
