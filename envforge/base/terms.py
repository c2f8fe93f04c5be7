"""Parse and print compute capabilities and wheel tags, which machines, wheels, and requests share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.version import Version

_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_TAG = re.compile(r"cu(\d{1,2})(\d)")
_CUDA = re.compile(r"(\d{1,2})\.(\d)(?:\.\d+)?")


@dataclass(frozen=True, order=True, slots=True)
class ComputeCapability:
    """The compute capability of a GPU, for example 8.6, which NVIDIA also writes as ``sm_86``."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Parse ``8.6``; raise ValueError for anything else."""
        match = _CAPABILITY.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"`{text}` is not a compute capability such as `8.6`")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class WheelTag:
    """The name of a PyTorch wheel index: ``cpu``, or ``cu118`` for CUDA 11.8."""

    cuda: Version | None

    @classmethod
    def parse(cls, text: str) -> WheelTag:
        """Parse ``cpu``, ``cu118``, or ``11.8``; raise ValueError for anything else."""
        text = text.strip().lower()
        if text == "cpu":
            return cls(None)
        match = _TAG.fullmatch(text) or _CUDA.fullmatch(text)
        if match is None:
            raise ValueError(f"`{text}` is neither `cpu` nor a CUDA version such as `11.8` or `cu118`")
        return cls(Version(f"{match[1]}.{match[2]}"))

    @property
    def is_cpu(self) -> bool:
        """Whether this is the build without CUDA."""
        return self.cuda is None

    def __str__(self) -> str:
        return "cpu" if self.cuda is None else f"cu{self.cuda.major}{self.cuda.minor}"


CPU = WheelTag(None)
