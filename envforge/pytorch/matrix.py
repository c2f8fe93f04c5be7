"""Represent builds and selections, and read from ``envforge/data/matrix.json`` which builds and drivers exist.

In the JSON of a selection, unknown values are left out, because TOML has no null.
"""

from __future__ import annotations

import datetime as dt
import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.documents import Document, Sha256
from envforge.base.envelope import Json, to_json
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError, Hint

PYTORCH_INDEX = "https://download.pytorch.org/whl"


class Grade(enum.Enum):
    """How well the driver supports the build."""

    DIRECT = "direct"
    MINOR_COMPATIBLE = "minor-compatible"
    UNVERIFIED = "unverified"
    CPU = "cpu"


class Preference(enum.Enum):
    """What to rank first among the builds that fit."""

    NEWEST_TORCH = "newest-torch"
    DIRECT = "direct"
    WIDEST = "widest"


class Request(Struct, frozen=True, kw_only=True):
    """What the user requests; ``None`` leaves the choice to ``select``."""

    cuda: WheelTag | None = None
    torch: Version | None = None
    python: Version | None = None
    platform: str | None = None
    prefer: Preference = Preference.NEWEST_TORCH
    torch_index: str = PYTORCH_INDEX


class Build(Struct, frozen=True, kw_only=True):
    """One row of the matrix: a PyTorch release for one CUDA tag and one platform (conda subdir).

    ``plain`` names packages of the family whose version has no ``+tag`` there. ``confirmed`` is false for a build that
    was announced or reported but not seen. ``capabilities_stated`` is false if the list of kernels is inferred.
    """

    torch: Version
    tag: WheelTag
    platform: str
    torchvision: Version | None = None
    torchaudio: Version | None = None
    glibc: Version | None = None
    pythons: tuple[Version, ...]
    capabilities: tuple[ComputeCapability, ...]
    ptx: tuple[ComputeCapability, ...]
    plain: tuple[str, ...] = ()
    local_version: bool = True
    confirmed: bool = True
    capabilities_stated: bool = True

    def pin(self, version: Version) -> str:
        """Return the exact version of torch or torchvision, for example ``2.7.1+cu118``."""
        return self._pin("torchvision" if version == self.torchvision else "torch", version)

    @property
    def pins(self) -> tuple[tuple[str, str], ...]:
        """Each package of the torch family that this index has, with its exact version."""
        family = (("torch", self.torch), ("torchvision", self.torchvision), ("torchaudio", self.torchaudio))
        return tuple((name, self._pin(name, version)) for name, version in family if version is not None)

    def _pin(self, name: str, version: Version) -> str:
        return str(version) if name in self.plain or not self.local_version else f"{version}+{self.tag}"

    def __str__(self) -> str:
        return f"torch {self.torch} {self.tag} {self.platform}"


class Candidate(Struct, frozen=True, kw_only=True):
    """A build that fits, with its grade."""

    build: Build
    python: Version
    grade: Grade


class Refusal(Struct, frozen=True, kw_only=True):
    """A build that doesn't fit, with the reason that decided."""

    build: Build
    code: str
    wanted: str
    found: str
    reason: str


class Selection(Struct, frozen=True, kw_only=True):
    """The selected build, its grade and reason, and every other build with its reason."""

    request: Request
    build: Build
    python: Version
    grade: Grade
    index_url: str
    reason: str
    warnings: tuple[str, ...] = ()
    accepted: tuple[Candidate, ...] = ()
    refused: tuple[Refusal, ...] = ()


class SelectionError(EnvforgeError):
    """A recorded selection that can't be parsed."""


def selection_to_json(selection: Selection, *, candidates: bool = True) -> dict[str, Json]:
    """Return the selection as JSON values; ``candidates=False`` omits all builds but the selected one."""
    document: dict[str, Json] = {
        "request": {"cuda": "auto", **_to_json(selection.request)},
        "build": _build_to_json(selection.build),
        "python": str(selection.python),
        "grade": selection.grade.value,
        "index_url": selection.index_url,
        "reason": selection.reason,
        "warnings": list(selection.warnings),
    }
    if candidates:
        document["accepted"] = [
            _to_json(candidate) | {"build": _build_to_json(candidate.build)} for candidate in selection.accepted
        ]
        document["refused"] = refusals_to_json(selection.refused)
    return document


def refusals_to_json(refused: tuple[Refusal, ...]) -> Json:
    """Return every rejected build with its reason."""
    return [_to_json(refusal) | {"build": _build_to_json(refusal.build)} for refusal in refused]


def _build_to_json(build: Build) -> dict[str, Json]:
    return _to_json(build) | {"pins": dict[str, Json](build.pins)}


def _to_json(value: Request | Build | Candidate | Refusal) -> dict[str, Json]:
    return cast("dict[str, Json]", to_json(value, omit_none=True))


def selection_from_json(value: object, where: str, hints: Callable[[], tuple[Hint, ...]] | None = None) -> Selection:
    """Parse the output of ``selection_to_json``; ``where`` names the file, and the table inside it, in errors."""
    document = Document(
        damaged=f"the selection in `{where}` is invalid", error=SelectionError, code="selection-damaged", hints=hints
    )
    table = document.convert(value, dict[str, Any])
    request = table.get("request")
    if isinstance(request, dict) and request.get("cuda") == "auto":
        table["request"] = {name: item for name, item in request.items() if name != "cuda"}
    selection = document.convert(table, Selection)
    # they are written for people and other tools, so an edit of them must not be ignored
    pins, expected = table["build"].get("pins"), dict(selection.build.pins)
    if pins not in (None, expected):
        raise document.fault("build.pins", f"{expected} as the versions of this build give", pins)
    return selection


FACTS_VARIABLE = "ENVFORGE_FACTS"
BUILT_IN = "built-in"  # the value of the variable that disables the refreshed table


class Minimum(Struct, frozen=True, kw_only=True):
    """The oldest driver for one CUDA: a toolkit such as 12.6, or every toolkit of a major version."""

    cuda: Version
    linux: Version
    windows: Version

    def driver(self, *, windows: bool) -> Version:
        """Return the minimum in the version scheme of that system's driver; WSL uses the driver of Windows."""
        return self.windows if windows else self.linux


class PythonDefault(Struct, frozen=True, kw_only=True):
    """The newest Python that a new environment gets by default; the tag ``None`` applies to every build."""

    tag: WheelTag | None = None
    at_most: Version
    reason: str


class PipDefault(Struct, frozen=True, kw_only=True):
    """The tag of the builds on PyPI, which has one build for each platform, from one release on."""

    since: Version
    platforms: tuple[str, ...]
    tag: WheelTag
    source: str
    checked: dt.date


class FactsId(Struct, frozen=True, kw_only=True):
    """The identity of a refreshed table: the day of its newest look-up, and the SHA-256 of its file."""

    checked: dt.date
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.checked} ({self.sha256[:12]})"


class Matrix(Struct, frozen=True, kw_only=True):
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


def built_in_matrix() -> Matrix:
    """Read the built-in matrix."""
    return read_data("matrix.json", Matrix)


def facts_path() -> Path | None:
    """Return the file of refreshed facts, which may not exist; None if the built-in table is used alone."""
    stated = os.environ.get(FACTS_VARIABLE)
    if stated:
        return None if stated == BUILT_IN else Path(stated)
    from platformdirs import user_data_path  # noqa: PLC0415 - not every command reads facts

    return user_data_path("envforge", appauthor=False) / "facts.json"


def load_matrix() -> Matrix:
    """Return the built-in matrix, with the refreshed facts of this computer."""
    matrix, path = built_in_matrix(), facts_path()
    if path is None or not (path.exists() or os.environ.get(FACTS_VARIABLE)):
        return matrix
    from envforge.pytorch.facts_file import installed_facts, layered  # noqa: PLC0415 - few computers have such a file

    found = installed_facts()
    return matrix if found is None else layered(matrix, *found)
