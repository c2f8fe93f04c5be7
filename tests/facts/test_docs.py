"""The transcripts of the pages about facts and about the comparison run without changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.transcripts import ROOT, run_steps, steps_of


@pytest.mark.parametrize("page", ["facts.md", "select.md"])
def test_page_prints_what_it_shows(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    steps = steps_of((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert steps
    run_steps(steps, tmp_path)
