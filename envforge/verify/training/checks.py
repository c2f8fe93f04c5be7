"""List the training checks in the order of reports."""

from __future__ import annotations

from dataclasses import replace

from envforge.verify.findings import NEEDS
from envforge.verify.training import learning, numerics, processes, speed
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = tuple(
    replace(check, needs=NEEDS.get(check.id, ("collective",)))
    for check in (
        *processes.CHECKS,
        *numerics.CHECKS,
        *learning.CHECKS,
        *numerics.SCALING_CHECKS,
        *speed.CHECKS,
        *numerics.MULTI_GPU_CHECKS,
    )
)
