"""Decision records have one format and a limited number, and every reference to one exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.transcripts import ROOT

DIRECTORY = ROOT / "docs" / "decisions"
RECORDS = sorted(DIRECTORY.glob("[0-9]*.md"))
_SECTIONS = ["Context", "Decision", "Consequences"]
_SEARCHED = ("envforge", "docs", "tests", "templates", "tools", "benchmarks")
_SUFFIXES = {".py", ".md", ".toml", ".yml", ".jinja"}
_REFERENCE = re.compile(r"decisions?[ /](\d{4})\b")


def test_decisions_are_at_most_25() -> None:
    assert 0 < len(RECORDS) <= 25


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_decision_has_the_format(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# {path.name[:4]}: .+\n\nStatus: (proposed|accepted|replaced)\b.*\n", text)
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == _SECTIONS


def test_index_lists_every_decision_with_its_title() -> None:
    index = DIRECTORY.with_suffix(".md").read_text(encoding="utf-8")
    titles = {path.name: path.read_text(encoding="utf-8").split("\n", 1)[0].partition(": ")[2] for path in RECORDS}
    assert {target: title for title, target in re.findall(r"\[([^]]+)\]\(decisions/([^)]+)\)", index)} == titles


def test_references_to_decisions_exist() -> None:
    numbers = {path.name[:4] for path in RECORDS}
    places = [
        ROOT / "README.md",
        *(file for top in _SEARCHED for file in (ROOT / top).rglob("*") if file.suffix in _SUFFIXES),
    ]
    texts = {place: place.read_text(encoding="utf-8", errors="replace") for place in places}
    found = {(str(place.relative_to(ROOT)), hit) for place, text in texts.items() for hit in _REFERENCE.findall(text)}
    assert {(place, number) for place, number in found if number not in numbers} == set()
