"""Test that the architecture page names functions that exist, where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", re.MULTILINE)


def test_walk_of_a_command_names_functions_of_the_files() -> None:
    rows = ROW.findall((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    missing = []
    for file, name in rows:
        body = ast.parse((ROOT / "envforge" / file).read_text(encoding="utf-8")).body
        if name not in {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}:
            missing.append(f"{name} in {file}")
    assert missing == []
    # the aim for reading one command from its options to its files
    assert len(rows) <= 20
    assert len({file for file, _ in rows}) <= 10
