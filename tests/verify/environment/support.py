"""Build a ``Situation`` on this machine or on a recorded one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

from envforge.machine.world import World
from envforge.verify.checks import all_checks
from envforge.verify.observe import Situation
from envforge.verify.values import Cost, Question

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


def situation(
    *,
    folder: Path,
    prefix: Path | None,
    project: Path | None = None,
    lock: Path | None = None,
    world: World | None = None,
    depth: Cost = "default",
    limit_s: float = 120.0,
    only: Iterable[str] | None = None,
    questions: tuple[Question, ...] = ("environment", "training"),
    say: Callable[[str], None] = lambda _text: None,
) -> Situation:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return Situation(
        world=world or World.here(environment),
        now=NOW,
        folder=folder,
        project=project,
        lock=lock,
        prefix=prefix,
        questions=questions,
        depth=depth,
        limit_s=limit_s,
        needs=None if only is None else needs_of(only),
        say=say,
    )


def needs_of(only: Iterable[str]) -> frozenset[str]:
    """The needs of the checks with these ids."""
    return frozenset(need for check in all_checks() if check.id in only for need in check.needs)
