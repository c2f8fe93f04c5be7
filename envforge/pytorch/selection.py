"""Represent a selection, and convert it to and from JSON.

Unknown values are left out, because TOML has no null.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from packaging.version import Version

from envforge.base.envelope import Json
from envforge.base.records import (
    Document,
    Fields,
    parsed,
    read_boolean,
    read_capabilities,
    read_string,
    read_tag,
    read_text,
    read_version,
)
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


_E = TypeVar("_E", bound=Enum)


class SelectionError(EnvforgeError):
    """A recorded selection that can't be parsed."""


def selection_to_json(selection: Selection, *, candidates: bool = True) -> dict[str, Json]:
    """Return the selection as JSON values; ``candidates=False`` omits all builds but the selected one."""
    document: dict[str, Json] = {
        "request": request_to_json(selection.request),
        "build": _build_to_json(selection.build),
        "python": str(selection.python),
        "grade": selection.grade.value,
        "index_url": selection.index_url,
        "reason": selection.reason,
        "warnings": list(selection.warnings),
    }
    if candidates:
        document["accepted"] = [_candidate_to_json(candidate) for candidate in selection.accepted]
        document["refused"] = refusals_to_json(selection.refused)
    return document


def refusals_to_json(refused: tuple[Refusal, ...]) -> Json:
    """Return every rejected build with its reason."""
    return [
        {
            "build": _build_to_json(refusal.build),
            "code": refusal.code,
            "wanted": refusal.wanted,
            "found": refusal.found,
            "reason": refusal.reason,
        }
        for refusal in refused
    ]


def selection_from_json(value: object, where: str, hints: Callable[[], tuple[Hint, ...]] | None = None) -> Selection:
    """Parse the output of ``selection_to_json``; ``where`` names the file, and the table inside it, in errors."""
    document = Document(
        damaged=f"the selection in `{where}` is invalid",
        error=SelectionError,
        code="selection-damaged",
        hints=hints,
        mapping="a table",
    )
    top = Fields(document, "", value)
    return Selection(
        request=_request(top.inner("request")),
        build=_build(top.inner("build")),
        python=top.need("python", read_version),
        grade=top.need("grade", _choice(Grade)),
        index_url=top.need("index_url", read_text),
        reason=top.need("reason", read_text),
        warnings=top.list_of("warnings", read_string),
        accepted=tuple(_candidate(row) for row in top.items("accepted", optional=True)),
        refused=tuple(_refusal(row) for row in top.items("refused", optional=True)),
    )


def request_to_json(request: Request) -> dict[str, Json]:
    """Return what was requested; options that were left to ``select`` are omitted."""
    stated = {"torch": request.torch, "python": request.python, "platform": request.platform}
    document: dict[str, Json] = {"cuda": "auto" if request.cuda is None else str(request.cuda)}
    document |= {key: str(value) for key, value in stated.items() if value is not None}
    return document | {"prefer": request.prefer.value, "torch_index": request.torch_index}


def _build_to_json(build: Build) -> dict[str, Json]:
    versions = {"torchvision": build.torchvision, "torchaudio": build.torchaudio, "glibc": build.glibc}
    return {
        "torch": str(build.torch),
        "tag": str(build.tag),
        "platform": build.platform,
        **{key: str(value) for key, value in versions.items() if value is not None},
        "pythons": [str(python) for python in build.pythons],
        "capabilities": [str(capability) for capability in build.capabilities],
        "ptx": [str(capability) for capability in build.ptx],
        "plain": list(build.plain),
        "local_version": build.local_version,
        "confirmed": build.confirmed,
        "capabilities_stated": build.capabilities_stated,
        "pins": dict(build.pins),
    }


def _candidate_to_json(candidate: Candidate) -> Json:
    python, grade = str(candidate.python), candidate.grade.value
    return {"build": _build_to_json(candidate.build), "python": python, "grade": grade}


def _candidate(row: Fields) -> Candidate:
    return Candidate(
        build=_build(row.inner("build")),
        python=row.need("python", read_version),
        grade=row.need("grade", _choice(Grade)),
    )


def _refusal(row: Fields) -> Refusal:
    return Refusal(
        build=_build(row.inner("build")),
        code=row.need("code", read_text),
        wanted=row.need("wanted", read_text),
        found=row.need("found", read_text),
        reason=row.need("reason", read_text),
    )


def _request(table: Fields) -> Request:
    return Request(
        cuda=table.need("cuda", parsed(_parse_cuda, "`auto`, `cpu` or a CUDA tag")),
        torch=table.get("torch", read_version),
        python=table.get("python", read_version),
        platform=table.get("platform", read_text),
        prefer=table.need("prefer", _choice(Preference)),
        torch_index=table.need("torch_index", read_text),
    )


def _build(table: Fields) -> Build:
    build = Build(
        torch=table.need("torch", read_version),
        torchvision=table.get("torchvision", read_version),
        torchaudio=table.get("torchaudio", read_version),
        tag=table.need("tag", read_tag),
        platform=table.need("platform", read_text),
        pythons=table.list_of("pythons", read_version),
        glibc=table.get("glibc", read_version),
        capabilities=table.need("capabilities", read_capabilities),
        ptx=table.need("ptx", read_capabilities),
        local_version=table.need("local_version", read_boolean),
        plain=table.list_of("plain", read_string),
        confirmed=table.need("confirmed", read_boolean),
        capabilities_stated=table.need("capabilities_stated", read_boolean),
    )
    if table.has("pins") and table.raw("pins") != dict(build.pins):
        raise table.fault("pins", f"{dict(build.pins)} as the versions of this build give", table.raw("pins"))
    return build


def _parse_cuda(text: str) -> WheelTag | None:
    return None if text == "auto" else WheelTag.parse(text)


def _choice(kind: type[_E]) -> Callable[[object], _E]:
    return parsed(kind, "one of " + ", ".join(str(member.value) for member in kind))
