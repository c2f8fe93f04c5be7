"""Test that a project of an older layout is told how to move over, and stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.project import update
from envforge.project.record import need_project_file
from envforge.project.templates import open_template
from tests.templates.conftest import write_project


def test_update_from_version_2_explains_the_new_layout(tmp_path: Path) -> None:
    write_project(tmp_path)
    file = tmp_path / "envforge.toml"
    file.write_text(file.read_text().replace('version = "3"', 'version = "2"'))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with open_template("image-classification", tmp_path) as opened, pytest.raises(EnvforgeError) as refusal:
        update.plan_update(tmp_path, need_project_file(tmp_path), opened, update.UpdateRequest())
    assert refusal.value.code == "other-layout"
    assert "was created from version 2 of the template" in str(refusal.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_update_from_version_3_goes_on(tmp_path: Path) -> None:
    write_project(tmp_path)
    with open_template("image-classification", tmp_path) as opened:
        planned = update.plan_update(tmp_path, need_project_file(tmp_path), opened, update.UpdateRequest())
    assert all("engine" not in str(change.path) for change in planned.changes if change.writes)
