"""The transcripts of the README, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.transcripts import ROOT, run_steps, steps_of

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_transcripts_to_run() -> None:
    assert len(steps_of(README)) >= 4


def test_every_transcript_of_the_readme_says_what_is_printed(tmp_path: Path) -> None:
    run_steps(steps_of(README), tmp_path)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("extra", ["smoke", "test"])
def test_the_set_up_commands_name_extras_that_exist(extra: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"'.[{extra}]'" in README
    assert re.search(rf"^{extra} = \[", text, flags=re.MULTILINE)
