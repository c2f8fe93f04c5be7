"""The tables of ``envforge/data`` that the machine's checks look into, as values.

Enters: ``xid.toml``, ``machine-checks.toml``. Leaves: rows by number or name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from envforge.matrix import Matrix, load_matrix
from envforge.resources import read_data

XidKind = Literal["app", "driver", "hardware"]
# Looked at by several checks, or shown beside what they found.
_ALSO_WATCHED = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_VISIBLE_DEVICES",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Xid:
    """What one Xid code means."""

    kind: XidKind
    meaning: str
    action: str
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EventReason:
    """Why a GPU does not run at its full clocks."""

    name: str
    bad: bool
    meaning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hurting:
    """What a variable does; ``only`` is the one value that does it."""

    effect: str
    only: str | None = None


@cache
def matrix() -> Matrix:
    """The table of PyTorch builds and drivers, read once."""
    return load_matrix()


@cache
def _xids() -> dict[str, Any]:
    return read_data("xid.toml")


@cache
def _checks() -> dict[str, Any]:
    return read_data("machine-checks.toml")


def xid(code: int) -> Xid | None:
    """The row of a code; None where the table has none."""
    row = _xids()["xid"].get(str(code))
    return Xid(**row, advice=_xids()["action"][row["action"]]) if row else None


def event_reasons(mask: int) -> tuple[EventReason, ...]:
    """The reasons of which NVML has set the bit; a bit without a row counts as bad, since nobody knows it."""
    reasons = []
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            row = _checks()["event_reasons"].get(str(1 << bit))
            unknown = EventReason(name=f"reason {1 << bit:#x}", bad=True, meaning="not in the table")
            reasons.append(EventReason(**row) if row else unknown)
    return tuple(reasons)


def is_bad_reason(name: str) -> bool:
    """Whether a reason of that name is a fault; one that has no row counts as bad."""
    return all(row["bad"] for row in _checks()["event_reasons"].values() if row["name"] == name)


def name_of(table: Literal["recovery_actions", "compute_modes", "fabric_states"], number: int) -> str:
    """NVML's number in words."""
    return str(_checks()[table].get(str(number), f"unknown ({number})"))


def hurting_variables() -> Mapping[str, Hurting]:
    """Variables that make training slow or change its numbers."""
    return {name: Hurting(**row) for name, row in _checks()["variables"].items()}


def watched_variables() -> tuple[str, ...]:
    """All variables that the record keeps where they are set."""
    return tuple(sorted({*_ALSO_WATCHED, *_checks()["variables"]}))


def cpu_level(level: Literal["v2", "v3", "bf16"]) -> tuple[str, ...]:
    """The instruction sets that a level of x86-64 adds; ``bf16``: any of these multiplies bf16 in hardware."""
    return tuple(_checks()["cpu_levels"][level])


def watched_instructions() -> frozenset[str]:
    """The instruction sets that the record keeps."""
    return frozenset(name for names in _checks()["cpu_levels"].values() for name in names)


def limit(name: str) -> int:
    """A threshold in whole numbers."""
    return int(_checks()["limits"][name])


def share(name: str) -> float:
    """A threshold as a part of one."""
    return float(_checks()["limits"][name])
