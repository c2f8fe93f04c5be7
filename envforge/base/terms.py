"""Parse and print compute capabilities and wheel tags, which machines, wheels, and requests share."""

from __future__ import annotations

import re
from functools import total_ordering

from packaging.version import Version

_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_TAG = re.compile(r"cu(\d{1,2})(\d)")
_CUDA = re.compile(r"(\d{1,2})\.(\d)(?:\.\d+)?")


class _Term:
    """A value that is equal to another one with the same text."""

    # a dataclass would be shorter, but msgspec reads one from a mapping, and documents have these as strings
    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Term) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@total_ordering
class ComputeCapability(_Term):
    """The compute capability of a GPU, for example 8.6, which NVIDIA also writes as ``sm_86``."""

    __slots__ = ("major", "minor")

    def __init__(self, major: int, minor: int) -> None:
        super().__init__(f"{major}.{minor}")
        self.major = major
        self.minor = minor

    def __lt__(self, other: ComputeCapability) -> bool:
        return (self.major, self.minor) < (other.major, other.minor)

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Parse ``8.6``; raise ValueError for anything else."""
        match = _CAPABILITY.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"`{text}` is not a compute capability such as `8.6`")
        return cls(int(match[1]), int(match[2]))


class WheelTag(_Term):
    """The name of a PyTorch wheel index: ``cpu``, or ``cu118`` for CUDA 11.8."""

    __slots__ = ("cuda",)

    def __init__(self, cuda: Version | None) -> None:
        super().__init__("cpu" if cuda is None else f"cu{cuda.major}{cuda.minor}")
        self.cuda = cuda

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


CPU = WheelTag(None)
