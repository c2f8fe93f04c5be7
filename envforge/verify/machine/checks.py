"""The checks of this question, in the order in which people read them."""

from __future__ import annotations

from envforge.verify.values import Check

CHECKS: tuple[Check, ...] = ()
