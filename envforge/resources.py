"""Locate the bundled data files, templates, and lockfiles.

They are in the installed package, or in the checkout next to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent


def templates_root() -> Path:
    """Return the directory of the built-in templates."""
    return _shipped("templates")


def lockfiles_root() -> Path:
    """Return the directory of the built-in lockfiles."""
    return _shipped("lockfiles")


def read_data(name: str) -> dict[str, Any]:
    """Read a bundled TOML data file. Tests validate all of them, so errors aren't handled here."""
    from envforge.tables import read_tables  # noqa: PLC0415 - callers that only need a directory parse nothing

    return read_tables((_PACKAGE / "data" / name).read_text(encoding="utf-8"))


def data_folder() -> Path:
    """Return the directory of the data files, for files that other programs read."""
    return _PACKAGE / "data"


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
