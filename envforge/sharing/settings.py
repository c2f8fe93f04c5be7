"""Find the catalogue in ``--catalogue``, ``ENVFORGE_CATALOGUE``, envforge.toml, or the user's settings.

[catalogue]
address = "git+https://host.example/team/locks.git@main"
public-key = "RW…"      # minisign; if set, every lockfile must be signed with it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge import toml
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.sharing.address import Address, parse_address

VARIABLE = "ENVFORGE_CATALOGUE"
PROJECT_FILE = "envforge.toml"
USER_FILE = "config.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The URL of a catalogue, where it was configured, and the minisign key that must have signed its lockfiles."""

    address: Address
    source: str
    public_key: str | None = None


def chosen_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen | None:
    """Return the first configured catalogue, or None. A key is used only for the URL that it is configured with."""
    stated = [(option, "--catalogue"), (environment.get(VARIABLE), VARIABLE)]
    for text, source in stated:
        if text:
            address = parse_address(text, folder)
            return Chosen(address=address, source=source, public_key=_key_for(address, folder))
    return next(_configured(folder), None)


def need_catalogue(option: str | None, folder: Path, environment: Mapping[str, str]) -> Chosen:
    """Return the configured catalogue; raise ``RequestError`` if there is none."""
    found = chosen_catalogue(option, folder, environment)
    if found is None:
        raise RequestError(
            f"no catalogue is configured: `--catalogue` and `{VARIABLE}` are not set, and `[catalogue] address` is not "
            f"in `{folder / PROJECT_FILE}` or `{user_file()}`",
            hint=(
                Hint("to select a catalogue for this command, pass `--catalogue URL`"),
                Hint('to configure one for every command, add `address = "URL"` below `[catalogue]` to either file'),
            ),
            code="no-catalogue",
        )
    return found


def project_template(folder: Path) -> str | None:
    """Return the template of a project; None if envforge.toml contains only settings."""
    table = _document(folder / PROJECT_FILE).get("template")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def user_file() -> Path:
    """Return the path of the user's settings."""
    import platformdirs  # noqa: PLC0415 - only if a catalogue is used

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
    except OSError as error:
        raise EnvforgeError(f"cannot read `{path}`: {error.strerror or error}", code="settings-damaged") from error
    except (UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise EnvforgeError(
            f"`{path}` is not valid TOML: {error}",
            hint=f"correct the syntax of `{path}` at that place",
            code="settings-damaged",
        ) from error


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
        hint=f"correct this value in `{path}`",
        code="settings-damaged",
    )
