"""Show paths, versions, and configuration for a bug report.

An invalid part is reported in its place and never raises an error. Values are shown without credentials.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge import __version__
from envforge.base.distribution import distribution_name, installed_by, upgrade_command
from envforge.base.envelope import Json, fields_to_json
from envforge.base.urls import has_secrets, hide_secrets
from envforge.catalogue.index import chosen_catalogue
from envforge.catalogue.signing import key_id
from envforge.cli import print_result
from envforge.cli.options import EnvironmentOptions, JsonOption, chosen_machine, takes
from envforge.cli.progress import counted
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import list_variants
from envforge.lock.needs import choose_variant, list_locks
from envforge.lock.project import is_environment, project_folder
from envforge.lock.python_index import configured_index, pip_configuration_files, uv_configuration_files
from envforge.machine.values import Machine
from envforge.prefix.cache import default_root
from envforge.prefix.journal import read_journal
from envforge.prefix.locate import ChosenEnvironment, named_prefix, unfinished_change, unfinished_install
from envforge.prefix.venv import venv_python
from envforge.pytorch.matrix import load_matrix

_LABEL = 20


class InfoOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge info``."""

    environment: EnvironmentOptions
    as_json: JsonOption


@click.command("info")
@takes(InfoOptions)
def info(options: InfoOptions) -> None:
    """Show paths, versions, configuration, and a summary of the machine.

    Include the output in bug reports. It contains no credentials, user names, host names, or addresses, and shows your
    home directory as `~`; `--json` shows complete paths. To show the machine in detail, run `envforge detect`.
    """
    from envforge.base.redact import Identity, redactor

    here, home = Path.cwd(), Path.home()
    named = options.environment != EnvironmentOptions() or project_folder(here) is not None
    machine = chosen_machine(None)
    found = read_info(options.environment.meant() if named else None, os.environ, here, home, machine)
    # people paste this text into public issues
    text = redactor(Identity.here())("\n".join(_to_words(found, machine)))
    print_result("info", _to_json(found, machine), text, as_json=options.as_json)


def _to_words(found: Info, machine: Machine) -> list[str]:
    system, gpus = machine_lines(machine)
    tools = ", ".join(f"{name} {version}" for name, version in found.tools.items())
    return [
        *_row("envforge", f"{found.version} in {found.package}"),
        *_row("distribution", f"{found.distribution}, installed by {found.installed_by}"),
        *_row("", f"to upgrade it, run `{found.upgrade_command}`"),
        *_row("Python", f"{found.python}, {found.executable}"),
        *_row("tools", tools),
        *_row("machine", system),
        *_row("", gpus),
        *_row("project", str(found.project or "none in this directory or its parents")),
        *(_environment(found.environment) if found.environment else _row("environment", "none")),
        *(_row("variants", found.variants) if found.variants else []),
        *_row("facts", found.facts),
        *_row("catalogue", found.catalogue),
        *(
            line
            for name, path in found.places.items()
            for line in _row(name, f"{path}{'' if path.exists() else ' (does not exist)'}")
        ),
        *(line for name, value in found.configuration for line in _row(name, value)),
    ]


def _environment(found: EnvironmentInfo) -> list[str]:
    counts = [counted(found.conda_packages, "conda package")] if found.conda_packages is not None else []
    counts += [counted(found.wheels, "wheel")] if found.wheels is not None else []
    python = [f"Python {found.python}"] if found.python else []
    return [
        *_row("environment", f"{found.prefix} ({found.state})"),
        *(_row("", ", ".join([*python, *counts])) if counts else []),
        *(_row("", f"lockfile: {found.lockfile}") if found.lockfile else []),
        *(_row("", found.unfinished_change) if found.unfinished_change else []),
    ]


def machine_lines(machine: Machine) -> tuple[str, str]:
    """Return two lines about a machine: the system, then the driver and the GPUs."""
    from collections import Counter

    from envforge.machine.values import OTHER_GPU, driver_text

    system = [machine.platform, f"glibc {machine.glibc}" if machine.glibc else "no glibc", machine.container or ""]
    first = ", ".join([*filter(None, system), *(["WSL"] if machine.is_wsl else [])])
    if not machine.has_nvidia:
        others = [condition.symptom for condition in machine.conditions if condition.code == OTHER_GPU]
        return first, "; ".join(others) or "no NVIDIA driver, no GPU"
    driver = machine.driver
    words = [f"driver {driver_text(driver.version)}" if driver and driver.version else "the driver is not running"]
    words += [f"CUDA {driver.cuda}"] if driver and driver.cuda else []
    counted = Counter(f"{gpu.name} (compute capability {gpu.compute_capability or 'unknown'})" for gpu in machine.gpus)
    words += [f"{count} x {name}" if count > 1 else name for name, count in counted.items()] or ["no GPU found"]
    words += [f"visible: {len(machine.visible_gpus)}"] if machine.visible is not None else []
    conditions = [f"conditions: {', '.join(item.code for item in machine.conditions)}"] if machine.conditions else []
    return first, ", ".join([*words, *conditions])


def _row(name: str, value: str) -> list[str]:
    return [f"{name:<{_LABEL}}{value}" if len(name) < _LABEL else f"{name}  {value}"]


def _to_json(found: Info, machine: Machine) -> Json:
    from envforge.machine.record import machine_to_json, redact

    configuration: list[Json] = [{"name": name, "value": value} for name, value in found.configuration]
    return {**fields_to_json(found), "configuration": configuration, "machine": machine_to_json(redact(machine))}


TOOLS = ("conda-lock", "py-rattler", "uv")
_READ = ("ENVFORGE_", "CONDA_OVERRIDE_")
_ALSO_READ = (
    "CUDA_VISIBLE_DEVICES", "CONDA_PREFIX", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "NETRC",
    "RATTLER_CACHE_DIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip
_SECRET = re.compile("PASSW|TOKEN|SECRET|CREDENTIAL|AUTH")  # in the name of a variable
_ADDRESSES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL")


class EnvironmentInfo(Struct, frozen=True, kw_only=True):
    """One prefix. ``state`` and ``unfinished_change`` are descriptions; the latter is of a change of its lockfile.

    Counts are None if they are unknown.
    """

    prefix: Path
    state: str
    python: str | None = None
    conda_packages: int | None = None
    wheels: int | None = None
    lockfile: str | None = None
    unfinished_change: str | None = None


class Info(Struct, frozen=True, kw_only=True):
    """What is known without a network connection. ``configuration`` is pairs of name and value."""

    version: str
    package: Path
    distribution: str
    installed_by: str
    upgrade_command: str
    python: str
    executable: str
    system: str
    tools: Mapping[str, str]
    project: Path | None
    environment: EnvironmentInfo | None
    variants: str | None
    facts: str
    catalogue: str
    places: Mapping[str, Path]
    configuration: tuple[tuple[str, str], ...]


def read_info(
    meant: ChosenEnvironment | None, environment: Mapping[str, str], here: Path, home: Path, machine: Machine
) -> Info:
    """Read everything except the machine; ``meant`` is None if no environment was found from ``here`` upward."""
    root = Path(environment.get("ENVFORGE_CACHE") or default_root())
    project = project_folder(here)
    upgrade = upgrade_command()  # with its `#subdirectory=`, which `hide_secrets` would remove
    return Info(
        version=__version__,
        package=Path(__file__).resolve().parents[1],
        distribution=distribution_name(),
        installed_by=hide_secrets(installed_by()),
        upgrade_command=upgrade if not has_secrets(upgrade) else hide_secrets(upgrade),
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        tools={name: _version(name) for name in TOOLS},
        project=project,
        environment=None if meant is None else _info_environment(meant),
        variants=None if project is None else _variants(project, machine),
        facts=_facts(),
        catalogue=_catalogue(project or here, environment),
        places={"package cache": root, "named environments": named_prefix("x").parent},
        configuration=(*_variables(environment), *_files(environment, home)),
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _info_environment(meant: ChosenEnvironment) -> EnvironmentInfo:
    prefix = meant.prefix
    if not is_environment(prefix):
        return EnvironmentInfo(prefix=prefix, state=f"missing; to create it, run `{meant.install_command}`")
    records = sorted((prefix / "conda-meta").glob("*.json"))
    # from the file names: reading all records takes long, and an invalid one must not keep the rest from being shown
    python = next((_record_version(path) for path in records if path.name.startswith("python-3")), None)
    of_venv = venv_python(prefix)
    python = str(of_venv) if of_venv else python
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
        unfinished_change=None if change is None else str(change),
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


def _facts() -> str:
    try:
        matrix = load_matrix()
    except EnvforgeError as error:
        return f"cannot be read: {error.message}"
    return f"checked on {matrix.checked}; refreshed: {matrix.refreshed or 'no'}"


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"unknown: `{path}` is not a valid record ({type(error).__name__})"


def _variables(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that envforge and its tools read, with URLs without credentials."""
    addresses = {*_ADDRESSES, *(name.upper() for name in _ADDRESSES)}
    return tuple(
        (name, "(hidden)" if _SECRET.search(name) else hide_secrets(value))
        for name, value in sorted(environment.items())
        if name.startswith(_READ) or name in _ALSO_READ or name in addresses
    )


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
