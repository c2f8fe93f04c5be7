"""Read the PyTorch builds that exist, and the driver that each CUDA requires, from ``envforge/data/matrix.json``."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.documents import Sha256
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.pytorch.selection import Build

FACTS_VARIABLE = "ENVFORGE_FACTS"
BUILT_IN = "built-in"  # the value of the variable that disables the refreshed table


@dataclass(frozen=True, kw_only=True, slots=True)
class Minimum:
    """The oldest driver for one CUDA: a toolkit such as 12.6, or every toolkit of a major version."""

    cuda: Version
    linux: Version
    windows: Version

    def driver(self, *, windows: bool) -> Version:
        """Return the minimum in the version scheme of that system's driver; WSL uses the driver of Windows."""
        return self.windows if windows else self.linux


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonDefault:
    """The newest Python that a new environment gets by default; the tag ``None`` applies to every build."""

    tag: WheelTag | None = None
    at_most: Version
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PipDefault:
    """The tag of the builds on PyPI, which has one build for each platform, from one release on."""

    since: Version
    platforms: tuple[str, ...]
    tag: WheelTag
    source: str
    checked: dt.date


@dataclass(frozen=True, kw_only=True, slots=True)
class FactsId:
    """The identity of a refreshed table: the day of its newest look-up, and the SHA-256 of its file."""

    checked: dt.date
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.checked} ({self.sha256[:12]})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """All builds, oldest torch first, and the facts that they are judged by.

    ``refreshed`` identifies the refreshed table that is layered over the built-in one.
    """

    builds: tuple[Build, ...]
    toolkits: tuple[Minimum, ...]
    families: tuple[Minimum, ...]
    python_defaults: tuple[PythonDefault, ...]
    pip_defaults: tuple[PipDefault, ...] = ()
    known_capabilities: tuple[ComputeCapability, ...]
    tegra: tuple[ComputeCapability, ...]
    checked: str
    refreshed: FactsId | None = None

    @property
    def tags(self) -> tuple[WheelTag, ...]:
        """The tags of all builds: cpu, then CUDA from oldest to newest."""
        cuda = sorted({build.tag.cuda for build in self.builds if build.tag.cuda is not None})
        # every release has a CPU build
        return (WheelTag(None), *map(WheelTag, cuda))

    @property
    def torches(self) -> tuple[Version, ...]:
        """The torch releases, oldest first."""
        return tuple(sorted({build.torch for build in self.builds}))

    @property
    def pythons(self) -> tuple[Version, ...]:
        """The Python versions that any build has, oldest first."""
        return tuple(sorted({python for build in self.builds for python in build.pythons}))

    @property
    def platforms(self) -> tuple[str, ...]:
        """The conda subdirs that any build has."""
        return tuple(sorted({build.platform for build in self.builds}))

    def direct_minimum(self, cuda: Version) -> Minimum | None:
        """Return the driver that ships with a toolkit; ``None`` if the toolkit is newer than the table."""
        return next((row for row in self.toolkits if row.cuda == cuda), None)

    def family_minimum(self, cuda: Version) -> Minimum | None:
        """Return the oldest driver that runs every toolkit of the same major version."""
        return next((row for row in self.families if row.cuda.major == cuda.major), None)

    def python_default(self, tag: WheelTag) -> PythonDefault:
        """Return the rule for the Python of a new environment with that tag."""
        return next(rule for rule in self.python_defaults if rule.tag in (None, tag))


def built_in_matrix(folder: Path | None = None) -> Matrix:
    """Read the built-in matrix, or the one in another directory."""
    return read_data("matrix.json", Matrix, folder)


def facts_path(environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the file of refreshed facts, which may not exist; None if the built-in table is used alone."""
    stated = (os.environ if environment is None else environment).get(FACTS_VARIABLE)
    if stated:
        return None if stated == BUILT_IN else Path(stated)
    from platformdirs import user_data_path  # noqa: PLC0415 - not every command reads facts

    return user_data_path("envforge", appauthor=False) / "facts.json"


def load_matrix(folder: Path | None = None) -> Matrix:
    """Return the built-in matrix, with the refreshed facts of this computer; only the matrix of another directory."""
    matrix = built_in_matrix(folder)
    path = None if folder is not None else facts_path()
    if path is None or not (path.exists() or os.environ.get(FACTS_VARIABLE)):
        return matrix
    from envforge.pytorch.facts_file import installed_facts, layered  # noqa: PLC0415 - few computers have such a file

    found = installed_facts()
    return matrix if found is None else layered(matrix, *found)
