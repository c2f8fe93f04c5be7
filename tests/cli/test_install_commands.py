"""Test that every command that installs envforge uses the distribution name of ``pyproject.toml``, and no other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from envforge.base import toml
from envforge.base.data_files import templates_root
from envforge.cli import main
from envforge.project.templates import list_templates

assert sys.platform != "win32"

from tests.templates.test_groups import GROUPS, rendered  # noqa: E402 - for mypy, the module is empty on Windows

ROOT = Path(__file__).parents[2]
OURS = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
EXPORTS = ("explicit", "requirements", "pylock", "pixi", "dockerfile", "slurm", "skypilot", "kubernetes", "environment")

_COMMAND = re.compile(
    r"\b(?:pip3?|uv pip|pipx|uv tool|uv|conda|mamba|micromamba)(?:\s+-[-\w]+)*"
    r"\s+(?:install|upgrade|inject|run|add|download)\b|\buvx\b"
)
_END = re.compile(r"&&|\|\||[;|`\n]|\\n")
_WORD = re.compile(r"[\"'\\]*([A-Za-z0-9][A-Za-z0-9._-]*)(?=[\"'\\\s\[=<>~!@(){},:]|$)")
# a requirement by itself: in a string or on a line of its own with a version or a URL, or an entry of a YAML list
_NAME = r"(env[-_.]?forge[A-Za-z0-9._-]*)(?:\[[\w,-]*\])?"
_REQUIREMENT = re.compile(
    rf"(?:^\s*(?:-\s+)?|[\"']){_NAME}\s*(?:==|~=|>=|<=|@\s)|^\s*-\s+[\"']?{_NAME}[\"']?\s*$",
    re.MULTILINE | re.IGNORECASE,
)


def is_like_envforge(name: str) -> bool:
    return "envforge" in re.sub(r"[-_.]", "", name.lower())


def installed_names(text: str) -> Iterator[tuple[int, str]]:
    """Return each name like envforge that a text installs, with its line."""
    for found in _COMMAND.finditer(text):
        end = _END.search(text, found.end())
        arguments = text[found.end() : end.start() if end else len(text)]
        for word in _arguments(arguments):
            if is_like_envforge(word):
                yield text.count("\n", 0, found.start()) + 1, word
    for found in _REQUIREMENT.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, found[1] or found[2]


def _arguments(text: str) -> Iterator[str]:
    for word in re.sub(r"\{\{.*?\}\}|\{.*?\}", "", text).split():
        found = _WORD.match(word)
        if found is not None and "/" not in word:
            yield found[1]


def sources() -> list[Path]:
    folders = ("envforge", "templates", "docs", "tools", "benchmarks", ".ci", ".github")
    kinds = {".py", ".md", ".jinja", ".yml", ".yaml", ".toml", ".cfg", ".txt", ".sh", ".json", ""}
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    found += [path for path in ROOT.iterdir() if path.suffix in {".md", ".py", ".yml", ".yaml"}]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def faults_in(files: Mapping[str, str]) -> list[str]:
    return [
        f"{path}:{line}: {name}" for path, text in files.items() for line, name in installed_names(text) if name != OURS
    ]


def test_no_source_installs_another_distribution() -> None:
    files = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sources()}
    assert faults_in(files) == []


@pytest.mark.parametrize("folder", ["envforge", "templates"])
def test_name_of_the_distribution_is_not_hard_coded(folder: str) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in sources() if (ROOT / folder) in path.parents}
    assert texts
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if OURS in text] == []


@pytest.mark.parametrize("template", list_templates(templates_root()))
def test_no_rendered_project_installs_another_distribution(template: str) -> None:
    files = rendered(template, GROUPS)
    assert faults_in(files) == []


def test_no_export_installs_another_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "image-classification", "digits", "--cuda", "11.8", "--machine", "t4"]) == 0
    monkeypatch.chdir(tmp_path / "digits")
    for kind in EXPORTS:
        (tmp_path / kind).mkdir()
        assert main(["export", kind, "-o", str(tmp_path / kind / f"{kind}.toml")]) == 0, capsys.readouterr().err
    files = {str(path): path.read_text(encoding="utf-8") for kind in EXPORTS for path in (tmp_path / kind).iterdir()}
    assert len(files) > len(EXPORTS)
    assert faults_in(files) == []


@pytest.mark.parametrize(
    "text",
    [
        "pip install envforge",
        "python -m pip install --quiet 'envforge[smoke]'",
        "RUN pip install --no-cache-dir envforge=={version}",
        "hint='pip install --upgrade envforge',",
        "pip install ruff envforge-tool",
        "uv pip install env-forge",
        "uv tool install envforge && envforge lock",
        "uvx envforge",
        "pipx run envforge new",
        "  - envforge==0.1.3\n",
        "  - pip:\n      - envforge\n",
        'dependencies = ["envforge>=1"]',
        "envforge[s3] @ git+https://example.org/x",
        "envforge==0.1.3\n",
    ],
)
def test_search_finds_another_name(text: str) -> None:
    assert [name for _, name in installed_names(text) if name != OURS]


@pytest.mark.parametrize(
    "text",
    [
        f"pip install {OURS}",
        f"pip install '{OURS}[smoke]=={{version}}'",
        "pip install . && envforge new x",
        "pip install '.[smoke]' && envforge new image-classification ~/digits",
        "`pip install` writes, then envforge reads",
        "~/envforge-tool/bin/pip install --quiet {{ envforge_requirement }}",
        "- `envforge lock`",
        "from envforge import x",
        "envforge lock --check",
    ],
)
def test_search_accepts_our_name_and_other_words(text: str) -> None:
    assert [name for _, name in installed_names(text) if name != OURS] == []
