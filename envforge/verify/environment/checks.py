"""List the environment checks in the order of reports."""

from __future__ import annotations

from dataclasses import replace

from envforge.verify.environment import gpus, imports, packages
from envforge.verify.values import Check

_NEEDS = {
    "environment-missing": (),
    "environment-drift": ("audit",),
    "files-changed": ("audit",),
    "packages-twice": ("audit",),
}
CHECKS: tuple[Check, ...] = tuple(
    replace(check, needs=_NEEDS.get(check.id, ("python",)))
    for check in (*packages.CHECKS, *imports.CHECKS, *gpus.CHECKS)
)
