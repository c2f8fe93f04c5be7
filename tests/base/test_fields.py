"""Test the errors of the strict readers: the path of the value, what was expected, and what was found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from envforge.base.records import (
    Document,
    Fields,
    one_of,
    read_capabilities,
    read_digest,
    read_tag,
    read_text,
    read_texts,
    read_version,
    show_as_json,
)
from envforge.errors import EnvforgeError

DOCUMENT = Document(damaged="the note `x` is damaged", error=EnvforgeError, code="note-damaged", hint="write it again")


@pytest.mark.parametrize(
    ("reader", "value", "message"),
    [
        (read_text, "", "expected a string, found ``"),
        (read_text, None, "expected a string, found nothing"),
        (read_digest, "A" * 64, f"expected 64 lowercase hexadecimal digits, found `{'A' * 64}`"),
        (read_version, "new", "expected a version such as `12.4`, as a string, found `new`"),
        (read_version, 3.1, "expected a string, found `3.1`"),
        (read_tag, "rocm6", "expected `cpu` or a CUDA tag, found `rocm6`"),
        (
            read_capabilities,
            ["8.6", "sm_90"],
            "expected a list of compute capabilities such as `8.6`, found `['8.6', '",
        ),
        (read_texts, {"a": 1}, "expected an object of strings, found `{'a': 1}`"),
        (one_of(("a", "b")), [], "expected one of `a`, `b`, found `[]`"),
    ],
)
def test_a_fault_names_place_wanted_and_found(reader: Callable[[object], object], value: object, message: str) -> None:
    top = Fields(DOCUMENT, "", {"rows": [{"key": value}]})
    with pytest.raises(EnvforgeError) as caught:
        top.items("rows")[0].need("key", reader)
    assert caught.value.message.startswith(f"the note `x` is damaged at `rows[0].key`: {message}")
    assert (caught.value.code, caught.value.hint) == ("note-damaged", "write it again")


def test_an_item_of_a_list_has_a_place_of_its_own() -> None:
    with pytest.raises(EnvforgeError, match=r"at `a\.names\[1\]`: expected a string, found `7`"):
        Fields(DOCUMENT, "", {"a": {"names": ["b", 7]}}).inner("a").list_of("names", read_text)


@pytest.mark.parametrize("value", [None, {}, "abc", 7])
def test_what_is_no_list_is_never_read_as_one(value: object) -> None:
    fields = Fields(DOCUMENT, "", {"names": value})
    with pytest.raises(EnvforgeError, match="at `names`: expected a list"):
        fields.list_of("names", read_text)
    with pytest.raises(EnvforgeError, match="at `names`: expected a list"):
        fields.items("names")


def test_an_optional_list_may_be_missing_and_still_must_be_a_list() -> None:
    assert Fields(DOCUMENT, "", {}).list_of("names", read_text, optional=True) == ()
    with pytest.raises(EnvforgeError, match="expected a list, found ``"):
        Fields(DOCUMENT, "", {"names": ""}).list_of("names", read_text, optional=True)


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(DOCUMENT.fault("a", "a text", ["x"] * 500).message) < 200
    assert show_as_json(["x"] * 500).endswith("...`")
