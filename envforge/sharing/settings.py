"""Which catalogue is meant: ``--catalogue``, ``ENVFORGE_CATALOGUE``, envforge.toml, the user's settings.

[catalogue]
address = "git+https://host.example/team/locks.git@main"
public-key = "RW…"      # minisign; with it every lock must be signed by its owner
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge import toml
from envforge.errors import EnvforgeError, RequestError
from envforge.sharing.address import Address, parse_address

VARIABLE = "ENVFORGE_CATALOGUE"
PROJECT_FILE = "envforge.toml"
USER_FILE = "config.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A catalogue's address, where it was read, and the minisign key that must have signed its locks."""

    address: Address
    source: str
    public_key: str | None = None


def chosen_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen | None:
    """The first catalogue that is configured; ``None`` where none is. A key is only taken with its own address."""
    stated = [(option, "--catalogue"), (environment.get(VARIABLE), VARIABLE)]
    for text, source in stated:
        if text:
            address = parse_address(text, folder)
            return Chosen(address=address, source=source, public_key=_key_for(address, folder))
    return next(_configured(folder), None)


def need_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen:
    """As ``chosen_catalogue``, but one has to be configured."""
    found = chosen_catalogue(option, folder, environment)
    if found is None:
        raise RequestError(
            f"no catalogue is configured: `--catalogue` and `{VARIABLE}` are not set, and `[catalogue] address` is not "
            f"in `{folder / PROJECT_FILE}` or `{user_file()}`",
            hint='pass `--catalogue ADDRESS`, or add `address = "ADDRESS"` below `[catalogue]` to one of these files',
            code="no-catalogue",
        )
    return found


def project_template(folder: Path) -> str | None:
    """The template that a project was made from; an envforge.toml with settings alone names none."""
    table = _document(folder / PROJECT_FILE).get("template")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def user_file() -> Path:
    """The user's own settings."""
    import platformdirs  # noqa: PLC0415 - only where a catalogue is asked for

    return Path(platformdirs.user_config_dir("envforge", appauthor=False)) / USER_FILE


def user_setting(table: str, key: str) -> str | None:
    """Return one string of the user's settings file, the only key of its table; None if it is absent."""
    return _table(user_file(), table, (key,)).get(key)


def _configured(folder: Path) -> Iterator[Chosen]:
    for path in (folder / PROJECT_FILE, user_file()):
        table = _table(path, "catalogue", ("address", "public-key"))
        if "address" in table:
            address = parse_address(table["address"], path.parent)
            yield Chosen(address=address, source=str(path), public_key=table.get("public-key"))


def _key_for(address: Address, folder: Path) -> str | None:
    return next((each.public_key for each in _configured(folder) if each.address == address), None)


def _document(path: Path) -> dict[str, Any]:
    try:
        return toml.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise _fault(path, "", "TOML", error) from error


def _table(path: Path, name: str, keys: tuple[str, ...]) -> dict[str, str]:
    """Return a table whose only keys are ``keys``, with strings as values; empty if it is absent."""
    table = _document(path).get(name, {})
    if not isinstance(table, dict):
        raise _fault(path, name, "a table", table)
    expected = " and ".join(f"`{key}`" for key in keys)
    for key, value in table.items():
        if key not in keys:
            raise _fault(path, f"{name}.{key}", f"only {expected}", key)
        if not isinstance(value, str):
            raise _fault(path, f"{name}.{key}", "a string", value)
    return table


def _fault(path: Path, place: str, wanted: str, found: object) -> EnvforgeError:
    at = f" at `{place}`" if place else ""
    return EnvforgeError(
        f"cannot read `{path}`{at}: expected {wanted}, found `{found}`",
        hint="fix the value in this file",
        code="settings-damaged",
    )
