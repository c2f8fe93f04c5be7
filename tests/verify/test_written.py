"""Test that the published schemas, the table of checks, and the rows of the machine match the code."""

from __future__ import annotations

import re

import pytest

from envforge.verify.checks import all_checks
from tests.verify.made_up import checks_of
from tools.write_verify import DOCUMENT, document, schemas


@pytest.mark.parametrize(("path", "text"), sorted(schemas().items()), ids=lambda value: getattr(value, "name", ""))
def test_the_published_schema_is_that_of_the_types(path: object, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run: python -m tools.write_verify"  # type: ignore[attr-defined]


def test_the_table_of_checks_is_that_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document(text) == text, "run: python -m tools.write_verify"
    assert all(f"| `{check.id}` |" in text for check in all_checks())


def test_the_rows_of_the_document_are_those_of_the_checks() -> None:
    text = DOCUMENT.with_name("verify-machine.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+|none) \| (.+) \|$", text, re.MULTILINE)
    documented = {(row, check) for row, checks in rows for check in re.findall(r"`([a-z-]+)`", checks)}
    assert documented == {(str(check.row or "none"), check.id) for check in checks_of("machine")}
