"""List the environment checks in the order of reports."""

from __future__ import annotations

from envforge.verify.environment import gpus, imports, packages
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (*packages.CHECKS, *imports.CHECKS, *gpus.CHECKS)
