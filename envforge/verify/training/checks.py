"""List the training checks in the order of reports."""

from __future__ import annotations

from envforge.verify.training import learning, numerics, processes, speed
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (
    *processes.CHECKS,
    *numerics.CHECKS,
    *learning.CHECKS,
    *numerics.SCALING_CHECKS,
    *speed.CHECKS,
    *numerics.MULTI_GPU_CHECKS,
)
