"""Test that control characters of hostile documents reach neither a terminal nor a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.cli import without_controls

assert sys.platform != "win32"

ROOT = Path(__file__).parents[1]
EVIL = "\x1b]0;title\x07\x1b[2Jx\u202ey\x9b31m\r\x08"
FORBIDDEN = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e"} - {"\n", "\t"}
MACHINE = {"system": "Linux", "architecture": "x86_64", "glibc": "2.35"}
TEMPLATE = {"name": "t", "version": EVIL, "summary": EVIL, "questions": [{"name": "a", "type": "str", "default": EVIL}]}
PACKAGE = {
    "name": EVIL,
    "version": EVIL,
    "manager": "conda",
    "platform": "linux-64",
    "url": "https://example.org/x-1.0-0.conda",
    "hash": {"sha256": "a" * 64},
    "category": EVIL,
    "dependencies": {EVIL: EVIL},
}
METADATA = {
    "content_hash": {"linux-64": EVIL},
    "channels": [EVIL],
    "platforms": ["linux-64"],
    "sources": [EVIL],
    "custom_metadata": {"envforge_variables": json.dumps({"A": EVIL})},
}


def _said(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "envforge", *words], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode in (0, 1, 2, 3), done.stderr
    return (done.stdout + done.stderr).decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents with control characters in every string that may have them, and a machine record."""
    folder = tmp_path_factory.mktemp("controls")
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "envforge", "detect", "--machine", "t4", "--json"],
        env=environment,
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode().replace("Tesla T4", json.dumps(EVIL)[1:-1])
    (folder / "machine.json").write_text(text)
    (folder / "conda-lock.yml").write_text(json.dumps({"version": 1, "metadata": METADATA, "package": [PACKAGE]}))
    (folder / "other.yml").write_text(json.dumps({"version": 1, "metadata": METADATA, "package": []}))
    (folder / "t" / "files").mkdir(parents=True)
    (folder / "t" / "template.yml").write_text(json.dumps(TEMPLATE))
    (folder / EVIL).mkdir()
    (folder / "environment.yml").write_text(json.dumps({"name": EVIL, "channels": [EVIL], "dependencies": [EVIL]}))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "detect --machine machine.json",
        "explain --machine machine.json",
        "verify --machine",
        "new tabular net --machine machine.json --no-lock --defaults",
        "templates show ./t",
        "new ./t net2 --machine t4 --no-lock --defaults",
        "diff conda-lock.yml other.yml",
        "diff conda-lock.yml other.yml --json",
        "install --frozen",
        "audit",
        "lock --check",
        "export requirements",
        "export dockerfile",
        "lockfiles list --catalogue .",
        "info",
    ],
)
def test_no_control_character_reaches_a_terminal(command: str, place: Path) -> None:
    assert FORBIDDEN & set(_said(place, *command.split())) == set()


@pytest.mark.parametrize("words", [(EVIL,), ("new", EVIL), ("diff", EVIL, EVIL), ("explain", "--machine", EVIL)])
def test_no_control_character_of_an_argument_is_repeated(words: tuple[str, ...], place: Path) -> None:
    assert FORBIDDEN & set(_said(place, *words)) == set()


REPORTS = ("--html r.html", "--markdown r.md", "--junit r.xml")


@pytest.mark.parametrize("written", REPORTS)
def test_no_control_character_reaches_a_report(written: str, place: Path) -> None:
    said = _said(place, "verify", "--machine", "machine.json", "--no-redact", "--json", *written.split())
    (place / "record.json").write_text(said[said.index("{") : said.rindex("}") + 1])
    report = place / written.split()[1]
    found = [report.read_text()]
    _said(place, "verify", "--from", "record.json", "--no-redact", *written.split())
    found.append(report.read_text())
    if "junit" not in written:
        _said(place, "compare", "record.json", "record.json", *written.split())
        found.append(report.read_text())
    assert [FORBIDDEN & set(text) for text in found] == [set()] * len(found)
    assert any("title" in text and r"\x1b" in text for text in found)


def test_colors_and_lines_are_kept() -> None:
    assert without_controls("\x1b[1mx\x1b[0m\ta\nb") == "\x1b[1mx\x1b[0m\ta\nb"
    assert without_controls("\x1b[2J\x9b") == r"\x1b[2J\x9b"
