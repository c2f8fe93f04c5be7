"""Test that ``docs/detect.md`` documents every condition, variable, and profile."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from envforge.base.data_files import read_data
from envforge.machine.record import load_machine
from envforge.machine.values import VARIABLES, driver_text
from envforge.machine.world import TIMEOUT_VARIABLE
from tests.support.transcripts import run_steps, steps_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "detect.md").read_text(encoding="utf-8")


def test_every_condition_is_documented() -> None:
    sources = (ROOT / "envforge" / "machine").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    codes = set(re.findall(r'Condition\(\s*code="([a-z-]+)"', text)) | {"nvml-hangs", "nvml-crashes"}
    documented = set(re.findall(r"`([a-z-]+)`", DOCS.partition("## Conditions")[2].partition("## The machine")[0]))
    assert codes - documented == set()
    assert len(codes) > 20


def test_every_variable_is_documented() -> None:
    missing = [name for name in (*VARIABLES, TIMEOUT_VARIABLE, "CUDA_VISIBLE_DEVICES") if f"| `{name}` |" not in DOCS]
    assert missing == []


@pytest.mark.parametrize("name", read_data("profiles.toml", dict[str, Any]))
def test_every_profile_is_documented_with_its_driver(name: str) -> None:
    machine = load_machine(name, {})
    (row,) = re.findall(rf"^\| `{re.escape(name)}` .*$", DOCS, re.MULTILINE)
    if machine.driver is not None:
        assert machine.driver.version is not None
        assert f"| {driver_text(machine.driver.version)} | {machine.driver.cuda} |" in row


def test_the_example_is_what_the_command_prints() -> None:
    golden = (Path(__file__).with_name("golden") / "a10g.txt").read_text(encoding="utf-8")
    assert textwrap.indent(golden, "    ") in DOCS


@pytest.mark.parametrize("page", ["detect.md", "select.md"])
def test_transcripts_are_what_the_commands_print(tmp_path: Path, page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, content in re.findall(r"^```text title=\"(\S+)\"\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content, encoding="utf-8")
    steps = steps_of(text)
    assert steps
    run_steps(steps, tmp_path)
