"""List the machine checks in the order of reports."""

from __future__ import annotations

from envforge.verify.machine import compatibility, driver, health, performance, presence, resources
from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = (
    *presence.CHECKS,
    *driver.CHECKS,
    *compatibility.CHECKS,
    *driver.CONTAINER_CHECKS,
    *health.CHECKS,
    *performance.CHECKS,
    *resources.CHECKS,
    *resources.VARIABLE_CHECKS,
)
