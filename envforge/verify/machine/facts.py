"""What ``verify --machine`` reads: every signal with its source, or with the reason why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """The machine record of ``detect`` and what goes beyond it."""

    machine: dict[str, Any]
