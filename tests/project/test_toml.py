"""Test that written TOML has the intended values, in the format of tomlkit."""

from __future__ import annotations

from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from envforge.base import toml
from envforge.project.record import dump_toml

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALARS = st.one_of(
    _TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
_TABLES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(_TEXTS, st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)), max_size=3),
    lambda inner: st.dictionaries(_TEXTS, st.one_of(_SCALARS, inner, st.lists(inner, max_size=3)), max_size=3),
    max_leaves=8,
)


@given(_TABLES)
def test_what_is_written_is_read_again(document: dict[str, Any]) -> None:
    assert document == toml.loads(dump_toml(document))


def test_bytes_are_those_of_tomlkit_so_that_records_of_earlier_versions_are_known_again() -> None:
    document = {
        "text": 'quote " back \\ tab \t bell \x07 delete \x7f é',
        "list": [1, 2.5, True, "x"],
        "outer only": {"inner": {"value": 1}},
        "table": {"value": 1, "table": {"a.b": "c"}, "list": []},
        "rows": [{"a": 1, "deep": {"b": 2}}, {"c": []}],
        "empty": {},
    }

    assert tomlkit.dumps(document) == dump_toml(document)


@pytest.mark.parametrize("value", [None, object(), float("nan")])
def test_what_toml_cannot_say_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        dump_toml({"value": value})
