"""Represent a selection, and convert it to and from JSON.

Unknown values are left out, because TOML has no null.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from packaging.version import Version

from envforge.base.documents import Document
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the user requests; ``None`` leaves the choice to ``select``."""

    cuda: WheelTag | None = None
    torch: Version | None = None
    python: Version | None = None
    platform: str | None = None
    prefer: Preference = Preference.NEWEST_TORCH
    torch_index: str = PYTORCH_INDEX


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A build that fits, with its grade."""

    build: Build
    python: Version
    grade: Grade


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A build that doesn't fit, with the reason that decided."""

    build: Build
    code: str
    wanted: str
    found: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
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
    pins, expected = table["build"].get("pins"), dict(selection.build.pins)
    if pins not in (None, expected):
        raise document.fault("build.pins", f"{expected} as the versions of this build give", pins)
    return selection
