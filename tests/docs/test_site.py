"""The docs site builds without warnings, and its pages load nothing from other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.transcripts import ROOT

# what a browser fetches without a click; `<link>` counts unless it only names another address of the page
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=["']?(?:https?:)?//[^>]*"""
    r"""|<link\b(?![^>]*\brel=["']?canonical)[^>]*?\bhref=["']?(?:https?:)?//[^>]*"""
    r"""|@import[^;]*//[^;]*|url\(["']?(?:https?:)?//[^)]*\)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    directory = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return directory


def test_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()


def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    files = [file for ending in ("html", "css", "svg") for file in site.rglob(f"*.{ending}")]
    loaded = {(str(file.relative_to(site)), hit) for file in files for hit in _LOADED.findall(file.read_text("utf-8"))}
    assert loaded == set()


@pytest.mark.parametrize(
    "text",
    [
        '<script async src="https://unpkg.com/mermaid.js"></script>',
        "<link rel=stylesheet href=https://fonts.googleapis.com/css>",
        '<img class="a" src="//example.com/a.png">',
        "a{background:url(https://example.com/a.png)}",
    ],
)
def test_request_to_another_server_is_found(text: str) -> None:
    assert _LOADED.search(text)


def test_link_to_another_site_is_allowed() -> None:
    assert not _LOADED.search('<a href="https://example.com">x</a><link rel="canonical" href="https://example.com">')


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "assets").iterdir()}
    assert {name: size for name, size in sizes.items() if size > 300_000} == {}
