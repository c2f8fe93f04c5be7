from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from packaging.version import Version

from envforge.base.documents import Document, Natural, Printable, Sha256, load_yaml, matching
from envforge.errors import EnvforgeError


class Build(Struct, frozen=True, kw_only=True):
    version: Version
    sha256: Sha256 | None = None
    size: Natural = 0
    kind: Literal["conda", "pip"] = "conda"
    name: Annotated[str, matching("[a-z]+", "lowercase letters")] = "x"


class Index(Struct, frozen=True, kw_only=True):
    builds: dict[str, tuple[Build, ...]]
    by: Printable | None = None
    at: dt.date | None = None


CLOSED = Document(damaged="the index is invalid", error=EnvforgeError, code="bad", closed=True)


def test_a_valid_document_becomes_typed_values() -> None:
    text = '{"builds": {"torch": [{"version": "2.7", "size": 3}]}, "by": "ann", "at": "2026-08-11"}'

    index = CLOSED.read_json(text, Index)

    assert index == Index(builds={"torch": (Build(version=Version("2.7"), size=3),)}, by="ann", at=dt.date(2026, 8, 11))
    assert CLOSED.read_yaml(text, Index) == index


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ('{"version": 2.7}', "at `builds.a[1].version`: expected a version such as `12.4`, as a string, found `2.7`"),
        ("{}", "at `builds.a[1].version`: expected a version such as `12.4`, as a string, found nothing"),
        ('{"version": "1", "size": "3"}', "at `builds.a[1].size`: expected an integer, found `3`"),
        ('{"version": "1", "size": true}', "at `builds.a[1].size`: expected an integer, found `true`"),
        ('{"version": "1", "size": -3}', "at `builds.a[1].size`: expected an integer >= 0, found `-3`"),
        ('{"version": "1", "kind": "uv"}', "at `builds.a[1].kind`: expected `conda`, `pip`, found `uv`"),
        (
            '{"version": "1", "sha256": "AB"}',
            "at `builds.a[1].sha256`: expected 64 lowercase hexadecimal digits, found `AB`",
        ),
        ('{"version": "1", "name": "B"}', "at `builds.a[1].name`: expected lowercase letters, found `B`"),
        ("3", "at `builds.a[1]`: expected a mapping, found `3`"),
        (
            '{"version": "1", "sise": 3}',
            "at `builds.a[1]`: expected one of the fields kind, name, sha256, size, version, found `sise`",
        ),
    ],
)
def test_an_invalid_value_is_named_with_its_path(build: str, message: str) -> None:
    text = '{"builds": {"b": [], "a": [{"version": "1"}, ' + build + "]}}"

    with pytest.raises(EnvforgeError) as caught:
        CLOSED.read_json(text, Index)

    assert caught.value.message == f"the index is invalid {message}"


@pytest.mark.parametrize("text", ["no: 1\nbuilds: {}\n", "3: 1\nbuilds: {}\n", "builds: {b: [{on: 1}]}\n"])
def test_a_key_that_yaml_does_not_read_as_a_string_is_named(text: str) -> None:
    with pytest.raises(EnvforgeError, match=r"the index is invalid at `.*`: expected a string, found `(false|3|true)`"):
        CLOSED.read_yaml(text, Index)


def test_a_control_character_is_rejected_and_escaped() -> None:
    with pytest.raises(EnvforgeError) as caught:
        CLOSED.read_json('{"builds": {}, "by": "\\u001b[2J"}', Index)

    assert "expected a string without control characters, found `\\x1b[2J`" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"[" * 100_000, b"nul", b'{"a": ' + b"9" * 5000 + b"}", b"{}", b"[]", b'{"builds": "\\ud800"}'],
)
def test_any_bytes_end_in_the_error_of_the_document(text: bytes) -> None:
    with pytest.raises(EnvforgeError, match="the index is invalid"):
        CLOSED.read_json(text, Index)
    with pytest.raises(EnvforgeError, match="the index is invalid"):
        CLOSED.read_yaml(text, Index)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "&a [*a]",
        "a: !!int x",
        "a: !!float x",
        "a: 2026-13-45",
        "a: 2026-01-01 25:61:61",
        "a: !!timestamp x",
        "a: !!binary é",
        "a: !!python/object:os.system x",
        "a: !!bool x",
        "? [a]\n: 1",
        "a: 1\n---\nb: 2",
        "a: " + "9" * 5000,
        "[" * 5000,
        "a: *b",
        "a: !!set x",
        "a: !!omap x",
        "<<: x",
        "a: \x00",
    ],
)
def test_yaml_without_a_value_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_yaml(text)


def test_an_alias_is_expanded() -> None:
    assert load_yaml("a: &a [1]\nb: *a\n") == {"a": [1], "b": [1]}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_key_of_a_fault_is_found_with_few_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = Mock(wraps=msgspec.convert)
    monkeypatch.setattr(msgspec, "convert", convert)
    many: dict[str, list[int]] = {f"k{number}": [] for number in range(5000)} | {"z": [1]}
    with pytest.raises(EnvforgeError, match=r"at `builds\.z\[0\]`: expected a mapping"):
        CLOSED.convert({"builds": many}, Index)
    assert convert.call_count < 40


def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "index.json")

    with pytest.raises(EnvforgeError, match="expected a regular file"):
        CLOSED.read_bytes(tmp_path / "index.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["builds", "by", "version"]), inner),
)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775808000", "1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize("text", ["{}", "[[{}]]", '{{"a": [1, {}]}}'])
def test_number_that_later_code_cannot_handle_is_rejected(text: str, number: str) -> None:
    with pytest.raises(EnvforgeError, match=r"expected (an integer of at most 64 bits|a finite number), found"):
        CLOSED.read_json(text.format(number), object)


@pytest.mark.parametrize(
    "text",
    [
        "a: 0xfffffffffffffffff",
        "a: 1._e+999",
        "a: .5e+999",
        "a: !!float 1._0e+9_9_9",
        "a: !<tag:yaml.org,2002:float> .inf",
        "1: .inf",
        "18446744073709551616: a",
        "[1_000_000_000_000_000_000_000]",
    ],
)
def test_number_in_yaml_that_later_code_cannot_handle_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"bits|inf"):
        load_yaml(text)


@given(JSON)
def test_any_value_converts_or_raises_the_error_of_the_document(value: Any) -> None:
    with contextlib.suppress(EnvforgeError):
        CLOSED.read_json(json.dumps(value), Index)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 5_000, "? " * 5_000, "{a: " * 5_000, "[" * 5_000 + "]" * 5_000])
def test_deep_yaml_is_rejected_before_libyaml_composes_it(text: str) -> None:
    for content in (text, text.encode(), text.encode("utf-16")):
        with pytest.raises(ValueError, match=r"levels|nesting|flow|block|expected"):
            load_yaml(content)


def test_wide_yaml_is_read() -> None:
    assert load_yaml("[" + "[1], " * 1000 + "]") == [[1]] * 1000


def test_time_is_linear_in_the_length_of_a_version() -> None:
    version = "1." * 200_000  # quadratic time would be minutes

    assert CLOSED.read_toml(f'a = "{version}"', dict[str, str]) == {"a": version}
