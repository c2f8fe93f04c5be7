"""``envforge info``: show what a bug report needs, as text or JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import chosen_machine, json_option
from envforge.cli.prefix_options import prefix_options
from envforge.cli.progress import counted

if TYPE_CHECKING:
    from envforge.daily.info import EnvironmentInfo, Info
    from envforge.machine import Machine
    from envforge.report import Json

_LABEL = 20


@click.command("info")
@prefix_options
@json_option()
def info(prefix: Path | None, name: str | None, as_json: bool) -> None:
    """Show paths, versions, configuration, and a summary of the machine.

    Include the output in bug reports. It contains no user names or passwords of URLs, and shows your home directory as
    `~`. To show the machine in detail, run `envforge detect`.
    """
    from envforge.daily.info import read_info
    from envforge.daily.prefix import meant_prefix, project_folder
    from envforge.report import success

    here, home = Path.cwd(), Path.home()
    named = prefix is not None or name is not None or project_folder(here) is not None
    machine = chosen_machine(None)
    found = read_info(meant_prefix(prefix, name, here) if named else None, os.environ, here, home, machine)
    if as_json:
        click.echo(success("info", _to_json(found, machine)))
    else:
        click.echo(_without_home("\n".join(_to_words(found, machine)), home))


def _without_home(text: str, home: Path) -> str:
    import re

    return text if home == Path(home.anchor) else re.sub(rf"{re.escape(str(home))}(?![\w.-])", "~", text)


def _to_words(found: Info, machine: Machine) -> list[str]:
    system, gpus = machine_lines(machine)
    tools = ", ".join(f"{name} {version}" for name, version in found.tools)
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
        *_row("catalogue", found.catalogue),
        *(
            line
            for name, path in found.places
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
        *(_row("", found.change) if found.change else []),
    ]


def machine_lines(machine: Machine) -> tuple[str, str]:
    """Return two lines about a machine: the system, then the driver and the GPUs."""
    from collections import Counter

    from envforge.machine import driver_text

    system = [machine.platform, f"glibc {machine.glibc}" if machine.glibc else "no glibc", machine.container or ""]
    first = ", ".join([*filter(None, system), *(["WSL"] if machine.is_wsl else [])])
    if not machine.has_nvidia:
        return first, "no NVIDIA driver, no GPU"
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
    from envforge.machine.record import machine_to_json
    from envforge.machine.redact import redact

    place = found.environment
    environment: Json = None
    if place is not None:
        environment = {
            "prefix": str(place.prefix),
            "state": place.state,
            "python": place.python,
            "conda_packages": place.conda_packages,
            "wheels": place.wheels,
            "lockfile": place.lockfile,
            "unfinished_change": place.change,
        }
    configuration: list[Json] = [{"name": name, "value": value} for name, value in found.configuration]
    return {
        "version": found.version,
        "package": str(found.package),
        "distribution": found.distribution,
        "installed_by": found.installed_by,
        "upgrade_command": found.upgrade_command,
        "python": found.python,
        "executable": found.executable,
        "system": found.system,
        "tools": dict(found.tools),
        "project": str(found.project) if found.project else None,
        "environment": environment,
        "variants": found.variants,
        "catalogue": found.catalogue,
        "places": {name: str(path) for name, path in found.places},
        "configuration": configuration,
        "machine": machine_to_json(redact(machine)),
    }
