"""Test that the published schemas and the table of checks match the code."""

from __future__ import annotations

import pytest

from envforge.verify.checks import all_checks
from tools.write_verify import DOCUMENT, document, schemas


@pytest.mark.parametrize(("path", "text"), sorted(schemas().items()), ids=lambda value: getattr(value, "name", ""))
def test_the_published_schema_is_that_of_the_types(path: object, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run: python -m tools.write_verify"  # type: ignore[attr-defined]


def test_the_table_of_checks_is_that_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document(text) == text, "run: python -m tools.write_verify"
    assert all(f"| `{check.id}` |" in text for check in all_checks())
