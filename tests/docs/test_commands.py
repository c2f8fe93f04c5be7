"""Every ``envforge`` command in the docs parses: complete in code blocks, as far as written in running text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import check_command
from tests.support.transcripts import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^(?P<indent> *)```.*?\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)+)")
_INLINE = re.compile(r"(?<!`)`(envforge [^`\n]+)`(?!`)")
_UNFINISHED = re.compile(r"missing |Option '\S+' requires an argument")
_COMMAND = re.compile(r"^\s*(?:\$ |- run: |run: |RUN )?(envforge .*)$", re.MULTILINE)


def commands_of_blocks(page: str) -> list[str]:
    """Return the commands in the fenced and indented code blocks of a page."""
    fenced = [match["text"] for match in _FENCED.finditer(page)]
    blocks = [*fenced, *_INDENTED.findall(_FENCED.sub("", page))]
    lines = [line for block in blocks for line in _COMMAND.findall(re.sub(r"\s*\\\n\s*", " ", block))]
    return [re.split(r"\s+#\s|\s{3,}", line)[0] for line in lines]


def commands_of_prose(page: str) -> list[str]:
    """Return the commands between single backticks in the prose of a page, without usage lines."""
    return [line for line in _INLINE.findall(_FENCED.sub("", page)) if "[OPTIONS]" not in line]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_page_parse(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert _faults(commands_of_blocks(page)) + _faults(commands_of_prose(page), unfinished=True) == []


def test_commands_are_found_in_blocks_and_prose() -> None:
    page = "Run `envforge lock`:\n\n```sh\nenvforge install \\\n  --offline  # x\n```\n\n    envforge audit    all\n\n"
    assert commands_of_blocks(page) == ["envforge install --offline", "envforge audit"]
    assert commands_of_prose(page) == ["envforge lock"]


@pytest.mark.parametrize("command", ["envforge install --no-such-option", "envforge instal", "envforge export nothing"])
def test_wrong_command_is_a_fault(command: str) -> None:
    assert _faults([command])


def _faults(commands: list[str], *, unfinished: bool = False) -> list[str]:
    faults = [fault for command in commands if (fault := _fault(command))]
    return [fault for fault in faults if not (unfinished and _UNFINISHED.match(fault))]


def _fault(command: str) -> str:
    try:
        check_command(command)
    except AssertionError as fault:
        return str(fault)
    return ""
