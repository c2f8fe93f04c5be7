"""Select the tests that this operating system can run.

A module with the line ``assert sys.platform != "win32"`` (or ``== "linux"``) isn't collected elsewhere; mypy skips the
rest of such a module, too. Tests below ``LINUX`` get the marker ``linux``: they install and run packages for linux-64,
compile a stub driver, or start shell scripts.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
LINUX = ("catalogue/test_bundle.py", "end_to_end", "prefix", "templates", "verify")
_STATEMENT = re.compile(r'^assert sys\.platform (==|!=) "(\w+)"$', re.MULTILINE)
_OPERATORS = {"==": operator.eq, "!=": operator.ne}


def is_for(source: str, platform: str) -> bool:
    """Return whether the module with this source can be imported on a platform."""
    return all(_OPERATORS[sign](platform, name) for sign, name in _STATEMENT.findall(source))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore modules that state another platform; pytest decides about all others."""
    if collection_path.suffix != ".py" or is_for(collection_path.read_text(encoding="utf-8"), sys.platform):
        return None
    return True


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that need Linux, and skip them elsewhere."""
    elsewhere = pytest.mark.skip(reason="needs Linux")
    for item in items:
        if any(item.path.is_relative_to(TESTS / name) for name in LINUX):
            item.add_marker(pytest.mark.linux)
        if sys.platform != "linux" and item.get_closest_marker("linux") is not None:
            item.add_marker(elsewhere)
