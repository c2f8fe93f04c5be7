"""What ``verify --train`` measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """One training on each device, and what was seen of it."""

    python: str
