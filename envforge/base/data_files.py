"""Locate and read the files that are part of envforge (data, templates, and lockfiles), and settings.

Settings are those of the user (config.toml) and of a project (envforge.toml). Files of envforge are in the installed
package, or in the checkout next to it. Data files that people edit are TOML; the ones that ``tools.build_data``
generates are JSON, because most commands read them and JSON is parsed much faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from envforge.base.documents import Document
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


USER_FILE = "config.toml"


def user_file() -> Path:
    """Return the path of the user's settings."""
    import platformdirs  # noqa: PLC0415 - only if a catalogue is used

    return Path(platformdirs.user_config_dir("envforge", appauthor=False)) / USER_FILE


def user_setting(table: str, key: str) -> str | None:
    """Return one string of the user's settings file, the only key of its table; None if it is absent."""
    return read_settings_table(user_file(), table, (key,)).get(key)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the document of a settings file; empty if there is none."""
    document = _document(path)
    if not path.exists():
        return {}
    try:
        text = document.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise document.fault("", "UTF-8", str(error)) from error
    return document.read_toml(text, dict[str, Any])


def read_settings_table(path: Path, name: str, keys: tuple[str, ...]) -> dict[str, str]:
    """Return a table whose only keys are ``keys``, with strings as values; empty if it is absent."""
    table = read_settings(path).get(name, {})
    if not isinstance(table, dict):
        raise settings_error(path, name, "a table", table)
    expected = " and ".join(f"`{key}`" for key in keys)
    for key, value in table.items():
        if key not in keys:
            raise settings_error(path, f"{name}.{key}", f"only {expected}", key)
        if not isinstance(value, str):
            raise settings_error(path, f"{name}.{key}", "a string", value)
    return table


def settings_error(path: Path, place: str, wanted: str, found: object) -> EnvforgeError:
    """Return the error for an invalid value in a settings file."""
    return _document(path).fault(place, wanted, found)


def _document(path: Path) -> Document:
    return Document(
        damaged=f"`{path}` is invalid",
        error=EnvforgeError,
        code="settings-damaged",
        hint=f"correct this value in `{path}`",
    )
