"""Read the solved conda packages, as the solver or ``envforge.lock.tee`` records them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from envforge.errors import EnvforgeError
from envforge.lock.mapping import NameMapping


@dataclass(frozen=True, kw_only=True, slots=True)
class SolvedPackage:
    """One solved conda package."""

    name: str
    version: str
    url: str
    size: int | None
    depends: tuple[str, ...]
    timestamp: float | None = None

    @property
    def is_python_package(self) -> bool:
        """Return whether conda-lock treats it as a Python package, because it depends on Python."""
        return any(wanted.split(" ", 1)[0] == "python" for wanted in self.depends)


@dataclass(frozen=True, kw_only=True, slots=True)
class Solve:
    """The solved conda packages of one platform."""

    packages: tuple[SolvedPackage, ...]

    @property
    def python(self) -> Version:
        """The Python version of the environment; raises ``EnvforgeError`` if there is none."""
        for package in self.packages:
            if package.name == "python":
                return Version(package.version)
        raise EnvforgeError(
            "`environment.yml` lists packages under `pip:`, but doesn't list `python`",
            hint="add a line such as `- python 3.12.*` to `dependencies:`",
            code="no-python",
        )

    def provided(self, mapping: NameMapping) -> dict[str, SolvedPackage]:
        """Return the Python packages that conda installs, by their normalized Python name."""
        found: dict[str, SolvedPackage] = {}
        for package in self.packages:
            if package.is_python_package and _is_version(package.version):
                python_name = mapping.to_python(package.name)
                # if two conda packages have one Python name, the one in the mapping wins
                if python_name not in found or python_name != package.name:
                    found[python_name] = package
        return found


def read_solve(folder: Path) -> Solve | None:
    """Return the newest solve recorded in ``folder``, or ``None`` if no solve is complete."""
    records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not records:
        return None
    document = json.loads(records[-1].read_text(encoding="utf-8"))
    return Solve(packages=tuple(_package(entry) for entry in document["packages"]))


def _package(entry: dict[str, Any]) -> SolvedPackage:
    return SolvedPackage(
        name=entry["name"],
        version=entry["version"],
        url=entry["url"],
        size=entry.get("size"),
        depends=tuple(entry.get("depends") or ()),
        timestamp=entry.get("timestamp"),
    )


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
