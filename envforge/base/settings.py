"""Read the settings of the user and of a project (config.toml, envforge.toml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envforge.base.documents import Document
from envforge.errors import EnvforgeError

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
