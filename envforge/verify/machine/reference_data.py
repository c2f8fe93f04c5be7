"""Look up rows of ``xid.toml`` and ``machine-checks.toml`` in ``envforge/data``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from msgspec import Struct

from envforge.base.data_files import read_data
from envforge.pytorch.matrix import Matrix, load_matrix

XidKind = Literal["app", "driver", "hardware"]
# used by several checks, or shown with their findings
_ALSO_WATCHED = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES")


class Xid(Struct, frozen=True, kw_only=True):
    """The meaning of one Xid code."""

    kind: XidKind
    meaning: str
    action: str
    advice: str


class EventReason(Struct, frozen=True, kw_only=True):
    """A reason why a GPU doesn't run at its maximum clocks."""

    name: str
    bad: bool
    meaning: str


class Hurting(Struct, frozen=True, kw_only=True):
    """The effect of an environment variable; ``only`` is the one value that has it."""

    name: str
    effect: str
    only: str | None = None

    def applies(self, value: str) -> bool:
        """Return whether the variable has its effect with this value."""
        if self.only is not None:
            return value == self.only
        # NVIDIA_TF32_OVERRIDE=0 forces TF32 off
        return value.strip() not in ("", "0") or self.name == "NVIDIA_TF32_OVERRIDE"


@cache
def matrix() -> Matrix:
    """Return the table of PyTorch builds and drivers."""
    return load_matrix()


@cache
def _xids() -> dict[str, Any]:
    return read_data("xid.toml", dict[str, Any])


@cache
def _checks() -> dict[str, Any]:
    return read_data("machine-checks.toml", dict[str, Any])


def xid(code: int) -> Xid | None:
    """Return the row of a code, or None if the table has none."""
    row = _xids()["xid"].get(str(code))
    return Xid(**row, advice=_xids()["action"][row["action"]]) if row else None


def event_reasons(mask: int) -> tuple[EventReason, ...]:
    """Return the reasons in a bit mask of NVML; a bit without a row is bad, because its meaning is unknown."""
    reasons = []
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            row = _checks()["event_reasons"].get(str(1 << bit))
            unknown = EventReason(name=f"reason {1 << bit:#x}", bad=True, meaning="not in the table")
            reasons.append(EventReason(**row) if row else unknown)
    return tuple(reasons)


def is_bad_reason(name: str) -> bool:
    """Return whether a reason is a problem; a reason without a row is one."""
    return all(row["bad"] for row in _checks()["event_reasons"].values() if row["name"] == name)


def name_of(table: Literal["recovery_actions", "compute_modes", "fabric_states"], number: int) -> str:
    """Return the name of one of NVML's numbers."""
    return str(_checks()[table].get(str(number), f"unknown ({number})"))


def hurting_variables() -> Mapping[str, Hurting]:
    """Return the variables that slow training or change its results."""
    return {name: Hurting(name=name, **row) for name, row in _checks()["variables"].items()}


def watched_variables() -> tuple[str, ...]:
    """Return the variables that a record contains if they are set."""
    return tuple(sorted({*_ALSO_WATCHED, *_checks()["variables"]}))


def cpu_level(level: Literal["v2", "v3", "bf16"]) -> tuple[str, ...]:
    """Return the instruction sets of an x86-64 level; for ``bf16``, those that multiply bf16 in hardware."""
    return tuple(_checks()["cpu_levels"][level])


def watched_instructions() -> frozenset[str]:
    """Return the instruction sets that a record contains if the CPU has them."""
    return frozenset(name for names in _checks()["cpu_levels"].values() for name in names)


def limit(name: str) -> int:
    """Return a threshold, an integer in the unit that its name contains."""
    return int(_checks()["limits"][name])


def share(name: str) -> float:
    """Return a threshold as a fraction between 0 and 1."""
    return float(_checks()["limits"][name])
