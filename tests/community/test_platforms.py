"""Test modules state which systems can run them."""

from __future__ import annotations

import re

import pytest

from tests.support.platforms import LINUX, TESTS, is_for

ONLY_POSIX = re.compile(r"^import (fcntl|grp|pty|pwd|resource|termios|tty)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "platforms"),
    [
        ("import os\n", {"linux", "darwin", "win32"}),
        ('import sys\n\nassert sys.platform != "win32"\n', {"linux", "darwin"}),
        ('import sys\n\nassert sys.platform == "linux"\n', {"linux"}),
        ('def helper():\n    assert sys.platform != "win32"\n', {"linux", "darwin", "win32"}),
    ],
)
def test_module_is_collected_on_the_systems_it_states(source: str, platforms: set[str]) -> None:
    assert {name for name in ("linux", "darwin", "win32") if is_for(source, name)} == platforms


def test_module_that_imports_posix_modules_is_not_for_windows() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py"))}
    posix = {path for path, source in sources.items() if ONLY_POSIX.search(source)}
    assert posix
    assert [path for path in posix if is_for(sources[path], "win32")] == []


def test_places_of_linux_tests_exist() -> None:
    assert [name for name in LINUX if not (TESTS / name).exists()] == []
