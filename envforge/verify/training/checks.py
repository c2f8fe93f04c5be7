"""List the training checks in the order of reports."""

from __future__ import annotations

from envforge.verify.training import learning, numerics, processes, scaling, several, speed
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (
    *processes.CHECKS,
    *numerics.CHECKS,
    *learning.CHECKS,
    *scaling.CHECKS,
    *speed.CHECKS,
    *several.CHECKS,
)
