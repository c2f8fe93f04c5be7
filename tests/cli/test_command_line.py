"""Test that the command line starts fast, documents itself, and reports all errors in one format."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from envforge.cli import COMMANDS, cli, main

LOCKFILE = Path(__file__).parents[2] / "lockfiles/tabular/cpu-linux-64.conda-lock.yml"
HEAVY = {"torch", "rattler", "conda_lock", "rich", "yaml", "jinja2", "pynvml", "packaging.version", "numpy", "uv"}


def modules_after(*arguments: str) -> set[str]:
    """Top-level and dotted names of the modules that one run of the command line has imported."""
    program = (
        "import sys\nfrom envforge.cli import main\n"
        f"main({list(arguments)!r})\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    assert modules_after("--help") & HEAVY == set()


def test_help_imports_only_click_and_our_own_command_line() -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import click, importlib, sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {name for name in modules_after("--help") - set(bare.stdout.split()) if not name.startswith("click.")}
    foreign = {name for name in ours if name.split(".")[0] not in sys.stdlib_module_names | {"envforge"}}
    assert foreign == set()
    assert {name for name in ours if name.startswith("envforge")} == {
        "envforge",
        "envforge.cli",
        "envforge.errors",
        "envforge.base",
        "envforge.base.envelope",
    }


def options_of(command: click.Command, context: click.Context) -> Iterator[click.Option]:
    """Yield the options of a command and of its subcommands."""
    yield from (each for each in command.params if isinstance(each, click.Option))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from options_of(command.get_command(context, name) or click.Command(name), context)


def test_options_of_one_name_read_one_variable() -> None:
    found: dict[str, set[object]] = {}
    for option in options_of(cli, click.Context(cli)):
        found.setdefault(max(option.opts, key=len), set()).add(option.envvar)
    assert {name: variables for name, variables in found.items() if len(variables) > 1} == {}


# as small as they are today: a command that loads more starts slower, and is harder to follow
@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["detect"], 17),
        (["explain", "--machine", "t4"], 31),
        (["new", "tabular", "project", "--cuda", "11.8", "--dry-run"], 44),
        (["install", str(LOCKFILE), "--dry-run", "--offline", "--ignore-machine"], 38),
        (["verify", "--fast"], 65),
    ],
)
def test_commands_load_few_modules_of_envforge(
    arguments: list[str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = {name for name in modules_after(*arguments) if name.split(".")[0] == "envforge"}
    assert len(loaded) <= most, sorted(loaded)


def test_every_command_of_the_table_loads_and_says_what_it_is_for() -> None:
    context = click.Context(cli, **cli.context_settings)
    for name, entry in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help, f"`{name}` has no help"
        assert entry.short_help.endswith(".")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (
            ["detcet"],
            (
                "error: no such command `envforge detcet`\n\nhint: did you mean `envforge detect`?; "
                "to list the commands, run `envforge --help`\n"
            ),
        ),
        (
            ["templates", "shw"],
            (
                "error: no such command `envforge templates shw`\n\nhint: did you mean `envforge templates show`?; "
                "to list the commands, run `envforge templates --help`\n"
            ),
        ),
        (
            ["detect", "--jsn"],
            (
                "error: no such option `--jsn` for `envforge detect`\n\nhint: did you mean `--json`?; "
                "to see the usage, run `envforge detect --help`\n"
            ),
        ),
        (
            ["new", "--lr", "3"],
            "error: no such option `--lr` for `envforge new`\n\nhint: to see the usage, run `envforge new --help`\n",
        ),
        (["diff"], "error: missing argument `A`\n\nhint: to see the usage, run `envforge diff --help`\n"),
        (
            ["detect", "extra"],
            "error: unexpected argument: `extra`\n\nhint: to see the usage, run `envforge detect --help`\n",
        ),
        (
            ["lock", "--variant"],
            "error: option `--variant` requires an argument\n\nhint: to see the usage, run `envforge lock --help`\n",
        ),
    ],
)
def test_usage_error_names_the_nearest(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr() == ("", printed)


def test_bare_command_prints_help_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: envforge [OPTIONS] COMMAND")


def test_usage_errors_keep_stdout_for_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--json", "--no-such-option"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["ok"], document["error"]["code"]) == (False, "usage")
    assert "--no-such-option" in captured.err


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    from envforge import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"envforge, version {__version__}\n"
