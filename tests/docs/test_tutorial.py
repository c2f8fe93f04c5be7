"""The transcripts of the tutorial run without changes, except commands that need a package server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.transcripts import ROOT, run_steps, steps_of

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_tutorial_plans_creates_tests_and_trains() -> None:
    commands = [step.command for step in steps_of(TUTORIAL)]
    starts = ("envforge explain", "envforge new", "cd digits", "envforge lock --check", "envforge run", "envforge run")
    assert [command.startswith(start) for command, start in zip(commands, starts, strict=True)] == [True] * 6


@pytest.mark.slow
def test_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    run_steps(steps_of(TUTORIAL), tmp_path)
