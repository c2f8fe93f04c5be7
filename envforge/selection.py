"""Define the values of a selection: the request, the builds that exist, and the answer with every rejected build."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from packaging.version import Version

from envforge.cuda import ComputeCapability, WheelTag

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
    torchvision: Version | None
    torchaudio: Version | None
    tag: WheelTag
    platform: str
    pythons: tuple[Version, ...]
    glibc: Version | None
    capabilities: tuple[ComputeCapability, ...]
    ptx: tuple[ComputeCapability, ...]
    local_version: bool = True
    plain: tuple[str, ...] = ()
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
