"""List the machine checks in the order of reports."""

from __future__ import annotations

from envforge.verify.machine import (
    compatibility,
    containers,
    driver,
    health,
    performance,
    presence,
    resources,
    variables,
)
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (
    *presence.CHECKS,
    *driver.CHECKS,
    *compatibility.CHECKS,
    *containers.CHECKS,
    *health.CHECKS,
    *performance.CHECKS,
    *resources.CHECKS,
    *variables.CHECKS,
)
