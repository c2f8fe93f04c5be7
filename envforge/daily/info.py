"""Collect what a bug report needs: envforge, its tools, the environment, and the effective configuration.

An invalid part is reported in its place and never raises an error. Values are shown without credentials.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from envforge import __version__
from envforge.daily.prefix import Meant, is_prefix, project_folder
from envforge.daily.unfinished import unfinished_change, unfinished_install
from envforge.distribution import distribution_name, installed_by, upgrade_command
from envforge.errors import EnvforgeError
from envforge.install.journal import read_journal
from envforge.install.named import named_prefix
from envforge.install.store import default_root
from envforge.install.variant_files import list_variants
from envforge.install.variants import choose_variant, list_locks
from envforge.machine import Machine
from envforge.python_index import configured_index, pip_configuration_files, uv_configuration_files
from envforge.sharing.settings import chosen_catalogue
from envforge.sharing.signing import key_id

TOOLS = ("conda-lock", "py-rattler", "uv")
_READ = ("ENVFORGE_", "CONDA_OVERRIDE_")
_ALSO_READ = (
    "CUDA_VISIBLE_DEVICES", "CONDA_PREFIX", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "NETRC",
    "RATTLER_CACHE_DIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip
_ADDRESSES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL")
_CREDENTIALS = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*@")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentInfo:
    """One prefix. ``state`` and ``change`` are descriptions; ``change`` is an incomplete change of its lockfile.

    Counts are None if they are unknown.
    """

    prefix: Path
    state: str
    python: str | None = None
    conda_packages: int | None = None
    wheels: int | None = None
    lockfile: str | None = None
    change: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Info:
    """What is known without a network connection. ``places`` and ``configuration`` are pairs of name and value."""

    version: str
    package: Path
    distribution: str
    installed_by: str
    upgrade_command: str
    python: str
    executable: str
    system: str
    tools: tuple[tuple[str, str], ...]
    project: Path | None
    environment: EnvironmentInfo | None
    variants: str | None
    catalogue: str
    places: tuple[tuple[str, Path], ...]
    configuration: tuple[tuple[str, str], ...]


def read_info(meant: Meant | None, environment: Mapping[str, str], here: Path, home: Path, machine: Machine) -> Info:
    """Read everything except the machine; ``meant`` is None if no environment was found from ``here`` upward."""
    root = Path(environment.get("ENVFORGE_CACHE") or default_root())
    project = project_folder(here)
    return Info(
        version=__version__,
        package=Path(__file__).resolve().parents[1],
        distribution=distribution_name(),
        installed_by=shown_address(installed_by()),
        upgrade_command=shown_address(upgrade_command()),
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        tools=tuple((name, _version(name)) for name in TOOLS),
        project=project,
        environment=None if meant is None else _environment(meant),
        variants=None if project is None else _variants(project, machine),
        catalogue=_catalogue(project or here, environment),
        places=(("package cache", root), ("named environments", named_prefix("x").parent)),
        configuration=(*_variables(environment), *_files(environment, home)),
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _environment(meant: Meant) -> EnvironmentInfo:
    prefix = meant.prefix
    if not is_prefix(prefix):
        return EnvironmentInfo(prefix=prefix, state=f"missing; to create it, run `{meant.install_command}`")
    records = sorted((prefix / "conda-meta").glob("*.json"))
    python = next((_record_version(path) for path in records if path.name.startswith("python-3")), None)
    known = EnvironmentInfo(prefix=prefix, state="complete", python=python, conda_packages=len(records))
    try:
        journal = read_journal(prefix)
    except EnvforgeError as error:
        return replace(known, state=f"invalid: {error.message}")
    if journal is None:
        half = unfinished_install(meant)
        return replace(known, state="created by another tool than envforge" if half is None else half.state)
    half = unfinished_install(meant)
    change = unfinished_change(Path(journal.lockfile))
    return replace(
        known,
        state="complete" if half is None else f"{half.state}; to complete it, run `{half.command}`",
        change=None if change is None else str(change),
        wheels=len(journal.wheels),
        lockfile=journal.lockfile,
    )


def _variants(project: Path, machine: Machine) -> str | None:
    """Return the variants of a project and the one that ``install`` selects here; None if it has no variants."""
    if not list_variants(project):
        return None
    try:
        choice = choose_variant(project, machine).name
    except EnvforgeError:  # `envforge install` reports the reason for each variant
        choice = "none"
    return f"{', '.join(list_locks(project, machine.platform))}; for this machine: {choice}"


def _catalogue(folder: Path, environment: Mapping[str, str]) -> str:
    try:
        chosen = chosen_catalogue(None, folder, environment)
        if chosen is None:
            return "none configured"
        signed = f", signed by {key_id(chosen.public_key)}" if chosen.public_key else ""
    except EnvforgeError as error:
        return f"cannot be read: {error.message}"
    return f"{chosen.address.public} (from {chosen.source}{signed})"


def _record_version(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unknown: `{path}` is not a valid record ({type(error).__name__})"


def _variables(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that envforge and its tools read, with URLs without credentials."""
    addresses = {*_ADDRESSES, *(name.upper() for name in _ADDRESSES)}
    return tuple(
        (name, shown_address(value) if name in addresses or "://" in value else value)
        for name, value in sorted(environment.items())
        if name.startswith(_READ) or name in _ALSO_READ or name in addresses
    )


def shown_address(text: str) -> str:
    """Return a text with all URLs without user names and passwords."""
    return _CREDENTIALS.sub(r"\1", text)


def _files(environment: Mapping[str, str], home: Path) -> tuple[tuple[str, str], ...]:
    """Return the existing configuration files and the package index that they configure."""
    files = (*uv_configuration_files(environment, home), *pip_configuration_files(environment, home, Path(sys.prefix)))
    found = [("file", str(path)) for path in dict.fromkeys((*files, home / ".netrc")) if path.is_file()]
    try:
        index = configured_index(environment, home, Path(sys.prefix))
        text = f"{index.public_url} (from {index.source})"
    except EnvforgeError as error:
        text = f"cannot be read: {error.message}"
    return (*found, ("Python index", text))
