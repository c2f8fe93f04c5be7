"""Test that the fast reader of data files returns what a TOML parser does, or leaves the file to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envforge.base import toml
from envforge.base.data_files import _read_plain, data_folder, read_tables

DATA = sorted(data_folder().glob("*.toml"))

_WORDS = st.sampled_from(["a", "b", "a.b", "b.a", '"a"', "a b", "", "é", "a-1"])
_VALUES = st.sampled_from(
    [
        '"x"',
        '"x\\n"',
        "'x'",
        "1",
        "01",
        "1.5",
        "1e5",
        "-1",
        "true",
        "null",
        "NaN",
        "[]",
        "[1, 2]",
        "[1,]",
        '["x", [1]]',
        "{ a = 1 }",
        "{}",
        "2026-11-22",
        '"x" # y',
        "",
        "1 2",
        '"""x"""',
        '"\x7f"',
        '"\x01"',
        "[,]",
        '"\u2028"',
        "1\r",
    ]
)
_LINES = st.one_of(
    st.builds("{} = {}".format, _WORDS, _VALUES),
    st.builds("[{}]".format, _WORDS),
    st.builds("[[{}]]".format, _WORDS),
    st.sampled_from(["", "# remark", " a = 1", "a=1", "[a", "[[a]", "[a]]", "[[a] ]", "[a] # remark", "a"]),
)


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_data_file_says_the_same_as_toml(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert toml.loads(text) == read_tables(text)


@pytest.mark.parametrize("name", ["torch_wheels.toml", "architectures.toml", "torch_releases.toml", "drivers.toml"])
def test_tables_of_the_matrix_need_no_whole_parser(name: str) -> None:
    assert _read_plain((data_folder() / name).read_text(encoding="utf-8"))


@example('a = "x"\na = 1')
@example("[a]\n[a]")
@example("[[a]]\n[a]")
@given(st.lists(_LINES, max_size=6).map("\n".join))
def test_any_lines_say_the_same_as_toml_or_are_refused_as_it_does(text: str) -> None:
    assert _outcome(toml.loads, text) == _outcome(read_tables, text)


def _outcome(read: Any, text: str) -> Any:
    try:
        return read(text)
    except toml.TOMLDecodeError as error:
        return str(error)
