"""Test that ``docs/verify-machine.md`` contains every row and check of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from tests.verify.machine.scenes import CHECKS

TEXT = (Path(__file__).parents[3] / "docs" / "verify-machine.md").read_text(encoding="utf-8")


def test_the_rows_of_the_document_are_those_of_the_checks() -> None:
    rows = re.findall(r"^\| (\d+|none) \| (.+) \|$", TEXT, re.MULTILINE)
    documented = {(row, check) for row, checks in rows for check in re.findall(r"`([a-z-]+)`", checks)}
    assert documented == {(str(check.row or "none"), check.id) for check in CHECKS}
