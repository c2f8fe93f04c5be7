"""The code in the guides runs without changes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.support.transcripts import ROOT

GUIDES = ROOT / "docs" / "guides"


def blocks(guide: str, language: str) -> list[str]:
    """Return the code blocks of a guide in one language."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_check_of_the_guide_passes_its_own_test(monkeypatch: pytest.MonkeyPatch) -> None:
    check, test = blocks("own-checks.md", "python")
    module = ModuleType("ourchecks")
    exec(check, module.__dict__)
    monkeypatch.setitem(sys.modules, "ourchecks", module)
    found: dict[str, object] = {}
    exec(test, found)
    function = found["test_scratch_fails_when_full"]
    assert callable(function)
    function()


@pytest.mark.parametrize("path", sorted(GUIDES.glob("*.md")), ids=lambda path: path.stem)
def test_yaml_of_guide_is_valid(path: Path) -> None:
    for block in blocks(path.name, "yaml"):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("path", sorted(GUIDES.glob("[a-h,j-z]*.md")), ids=lambda path: path.stem)
def test_guide_states_its_purpose_first(path: Path) -> None:
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    assert paragraphs[0].startswith("# ")
    assert " this guide " in f" {paragraphs[1].lower()} ".replace("\n", " ")
