"""Test that options become a request, or an error that lists the valid values and suggests the nearest one."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from packaging.version import Version

from envforge.base.terms import CPU, WheelTag
from envforge.cli.options import takes
from envforge.cli.project_options import SelectionOptions
from envforge.errors import RequestError
from envforge.pytorch.matrix import PYTORCH_INDEX, Preference, Request
from tests.pytorch.machines import CU118, MATRIX

CUDA = ["auto", "cpu", "cu117", "cu118", "cu121", "cu124", "cu126", "cu128", "cu129", "cu130", "cu132"]
VERSIONS = ["11.7", "11.8", "12.1", "12.4", "12.6", "12.8", "12.9", "13.0", "13.2"]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("auto", None),
        ("cpu", CPU),
        ("11.8", CU118),
        ("cu118", CU118),
        ("CU118", CU118),
        ("13.0", WheelTag.parse("cu130")),
    ],
)
def test_cuda_is_read_in_each_of_its_spellings(text: str, tag: WheelTag | None) -> None:
    assert SelectionOptions(cuda=text).to_request(MATRIX).cuda == tag


def test_a_torch_series_stands_for_its_newest_release() -> None:
    assert SelectionOptions(torch="2.7").to_request(MATRIX).torch == Version("2.7.1")
    assert SelectionOptions(torch="2.7.0").to_request(MATRIX).torch == Version("2.7.0")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (SelectionOptions(cuda="11.9"), f"expected one of: {', '.join(CUDA + VERSIONS)}", "mean `--cuda 11.8`?"),
        (SelectionOptions(cuda="12"), "unknown value `12` for `--cuda`", "did you mean `--cuda 12.9`?"),
        (SelectionOptions(cuda="cu12"), "unknown value `cu12` for `--cuda`", "did you mean `--cuda 12.9`?"),
        (SelectionOptions(torch="2"), "unknown value `2` for `--torch`", "did you mean `--torch 2.14.1`?"),
        (SelectionOptions(python="4"), "which ends at 3.14", "pass `--python 3.14`"),
        (SelectionOptions(python="3.8"), "is older than 3.10", "pass `--python 3.10`"),
        (SelectionOptions(cuda="cu119"), "unknown value `cu119` for `--cuda`", "did you mean `--cuda 11.8`?"),
        (SelectionOptions(cuda="cu1118"), "unknown value `cu1118` for `--cuda`", "did you mean `--cuda cu118`?"),
        (SelectionOptions(cuda="rocm"), "unknown value `rocm` for `--cuda`", "omit `--cuda`"),
        (SelectionOptions(cuda="13.4"), f"newer than the table of {MATRIX.checked}, which ends at 13.2", "--cuda 13.2"),
        (SelectionOptions(torch="2.7.2"), "2.7.0, 2.7.1, 2.8.0", "did you mean `--torch 2.7.1`?"),
        (SelectionOptions(torch="1.13"), "`--torch 1.13` is older than 2.0.0", "pass `--torch 2.0.0`"),
        (SelectionOptions(torch="2.16"), "ends at 2.15.0, whose builds aren't confirmed yet", "pass `--torch 2.14.1`"),
        (SelectionOptions(torch="9"), "ends at 2.15.0, whose builds aren't confirmed yet",
         "to use the newest version with confirmed builds, pass `--torch 2.14.1`"),
        (SelectionOptions(torch="2.x"), "unknown value `2.x`", "did you mean `--torch 2.14.1`?"),
        (SelectionOptions(torch="2.7x"), "unknown value `2.7x`", "did you mean `--torch 2.7.1`?"),
        (SelectionOptions(cuda="cu12x"), "unknown value `cu12x`", "did you mean `--cuda cu129`?"),
        (SelectionOptions(cuda="12x"), "unknown value `12x`", "did you mean `--cuda 12.9`?"),
        (SelectionOptions(cuda="cu99"), "unknown value `cu99`", "to let envforge choose, omit `--cuda`"),
        (SelectionOptions(cuda="10.2"), "`--cuda 10.2` is older than 11.7", "pass `--cuda 11.7`"),
        (SelectionOptions(torch_index="http://:8"), "is not the URL of a wheel index", "`--torch-index https://"),
        (SelectionOptions(torch_index="http://host:port/whl"), "is not the URL of a wheel index", "`--torch-index"),
        (SelectionOptions(torch_index="file:///"), "is not the URL of a wheel index", "`--torch-index https://"),
        (SelectionOptions(torch="new"), "unknown value `new` for `--torch`", "omit `--torch`"),
        (SelectionOptions(python="3.9.1"), "is older than 3.10", "pass `--python 3.10`"),
        (SelectionOptions(torch_index="mirror"), "is not the URL of a wheel index", "`--torch-index https://"),
        (SelectionOptions(torch_index="https://m.example/whl/cu118/"), "ends with the tag `cu118`", "https://m.example/whl"),
    ],
)  # fmt: skip
def test_a_word_that_names_nothing_lists_what_exists_and_suggests_the_nearest(
    options: SelectionOptions, message: str, hint: str
) -> None:
    with pytest.raises(RequestError) as caught:
        options.to_request(MATRIX)
    assert message in caught.value.message
    assert caught.value.hint.startswith(hint) or hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_credentials_in_the_index_are_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        SelectionOptions(torch_index="https://me:secret@mirror.example/whl").to_request(MATRIX)
    assert "contains credentials" in caught.value.message
    assert "secret" not in caught.value.message + caught.value.hint


def test_an_unknown_platform_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="linux-64, linux-aarch64, osx-64, osx-arm64, win-64") as caught:
        SelectionOptions(platforms=("linux-46",)).known_platforms(MATRIX)
    assert caught.value.hint == "did you mean `--platform linux-64`?"


@click.command()
@takes(SelectionOptions)
def _echo(options: SelectionOptions) -> None:
    click.echo(repr((options.to_request(MATRIX), options.known_platforms(MATRIX))))


def test_the_options_reach_the_command_as_one_value() -> None:
    words = ["--cuda", "11.8", "--torch", "2.7", "--python", "3.11", "--prefer", "direct"]
    words += ["-p", "linux-64", "-p", "osx-arm64", "-p", "linux-64"]
    request = Request(cuda=CU118, torch=Version("2.7.1"), python=Version("3.11"), prefer=Preference.DIRECT)
    result = CliRunner().invoke(_echo, words)
    assert result.output.strip() == repr((request, ("linux-64", "osx-arm64")))


def test_the_mirror_comes_from_the_environment_and_the_option_counts_more() -> None:
    environment = {"ENVFORGE_TORCH_INDEX": "https://mirror.example/whl/"}
    by_variable = CliRunner().invoke(_echo, [], env=environment).output
    by_option = CliRunner().invoke(_echo, ["--torch-index", PYTORCH_INDEX], env=environment).output
    assert "torch_index='https://mirror.example/whl'" in by_variable
    assert f"torch_index='{PYTORCH_INDEX}'" in by_option
