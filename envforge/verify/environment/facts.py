"""What ``verify --env`` reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentFacts:
    """The environment's Python, its packages against the lock, and the libraries that torch brought in."""

    prefix: str
