"""Test that each promise of the page about security has a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*\.) \| `(\S+)::(\w+)` \|$", PAGE, re.MULTILINE)


def test_security_page_lists_promises() -> None:
    table = PAGE.partition("## Promises")[2].partition("## ")[0]
    assert len(ROWS) == table.count("\n| ") - 1


@pytest.mark.parametrize(("promise", "path", "name"), ROWS, ids=[name for _, _, name in ROWS])
def test_promise_has_a_test(promise: str, path: str, name: str) -> None:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, promise
