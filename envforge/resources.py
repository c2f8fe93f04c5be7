"""What comes with envforge: its data files, and the folders of templates and lockfiles.

The folders lie inside the installed package, or in the checkout beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent


def templates_root() -> Path:
    """The folder of templates that comes with this envforge."""
    return _shipped("templates")


def lockfiles_root() -> Path:
    """The folder of solved lockfiles that comes with this envforge."""
    return _shipped("lockfiles")


def read_data(name: str) -> dict[str, Any]:
    """One of our own TOML data files, which the tests keep whole."""
    from envforge.tables import read_tables  # noqa: PLC0415 - who only asks for a folder parses nothing

    return read_tables((_PACKAGE / "data" / name).read_text(encoding="utf-8"))


def data_folder() -> Path:
    """The folder of our own data files, for those that other programs read."""
    return _PACKAGE / "data"


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
