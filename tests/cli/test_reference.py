"""Test that every command, option, exit code, and environment variable is documented."""

from __future__ import annotations

import re
from pathlib import Path

from tools.write_reference import REFERENCE, reference

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"[\"']((?:ENVFORGE|CONDA_OVERRIDE)_[A-Z_]+)[\"']")


def test_reference_is_what_the_commands_say() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run: python -m tools.write_reference"


def test_reference_holds_no_control_character_of_click() -> None:
    assert re.findall(r"[\x00-\x09\x0b-\x1f]|\\b\b", reference()) == []


def test_every_environment_variable_of_ours_is_documented() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "envforge").rglob("*.py")))
    documents = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    read = set(_VARIABLE.findall(code))
    assert read
    assert {name for name in read if name not in documents} == set()
