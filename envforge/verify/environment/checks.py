"""The checks of this question, in the order in which people read them."""

from __future__ import annotations

from envforge.verify.environment import gpus, imports, packages
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (*packages.CHECKS, *imports.CHECKS, *gpus.CHECKS)
