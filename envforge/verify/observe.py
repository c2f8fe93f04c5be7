"""Observe: the effects of ``verify``. Enters: a ``Situation``. Leaves: a ``Record``, which nothing here judges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from envforge.probe import World
from envforge.verify.values import Cost, Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """Where ``verify`` stands: the computer, the project, its lock and its environment, as far as they are there.

    ``depth`` is the dearest cost that may be paid. ``limit_s`` bounds each process that is started.
    """

    world: World
    now: datetime
    folder: Path
    project: Path | None
    lock: Path | None
    prefix: Path | None
    questions: tuple[Question, ...]
    depth: Cost = "default"
    limit_s: float = 120.0
