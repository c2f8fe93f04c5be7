"""Locate and read the files that are part of envforge: data, templates, and lockfiles.

They are in the installed package, or in the checkout next to it. Data files that people edit are TOML; the ones that
``tools.build_data`` generates are JSON, because most commands read them and JSON is parsed much faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from envforge.errors import EnvforgeError, Hint

_PACKAGE = Path(__file__).resolve().parents[1]
_T = TypeVar("_T")


class DataFileError(EnvforgeError):
    """A data file of envforge that is missing or invalid."""


def templates_root() -> Path:
    """Return the directory of the built-in templates."""
    return _shipped("templates")


def lockfiles_root() -> Path:
    """Return the directory of the built-in lockfiles."""
    return _shipped("lockfiles")


def data_folder() -> Path:
    """Return the directory of the data files."""
    return _PACKAGE / "data"


def read_data(name: str, type_: type[_T], folder: Path | None = None) -> _T:
    """Read a data file, JSON or TOML, as a value of ``type_``; raise ``DataFileError`` if it is invalid."""
    from envforge.base.documents import Document  # noqa: PLC0415 - `detect` without a driver reads no data file

    path = (folder or data_folder()) / name
    document = Document(
        damaged=f"the data file `{path}` is invalid", error=DataFileError, code="data-file-damaged", hints=_reinstall
    )
    content = document.read_bytes(path)
    if path.suffix == ".json":
        return document.read_json(content, type_)
    return document.read_toml(content.decode("utf-8", "replace"), type_)


def _reinstall() -> tuple[Hint, ...]:
    from envforge.base.distribution import reinstall_command  # noqa: PLC0415 - slow to import, and only errors need it

    return (Hint("to repair the installation of envforge", reinstall_command()),)


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
