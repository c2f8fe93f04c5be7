"""Test the change of two files in one transaction: a crash at any point leaves the old or the new state."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.project import complete_transaction, replace_together
from tests.lock.change.conftest import ROOT
from tests.lock.change.killed import NEW

assert sys.platform != "win32"

OLD = {"environment.yml": b"old environment\n", "conda-lock.yml": b"old lock\n"}


def folder_with(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_in_a_process(folder: Path, moment: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.lock.change.killed", str(folder), str(moment)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_killed_at_any_touch_of_the_disk_the_next_run_finds_the_old_state_or_the_new(tmp_path: Path) -> None:
    touches = int(change_in_a_process(folder_with(OLD, tmp_path / "whole"), 0).stdout)
    assert content(tmp_path / "whole") == NEW
    seen = set()
    for moment in range(1, touches + 1):
        folder = folder_with(OLD, tmp_path / str(moment))
        assert change_in_a_process(folder, moment).returncode == -signal.SIGKILL
        was_begun = complete_transaction(folder / "environment.yml")
        files = {name: data for name, data in content(folder).items() if not name.startswith(".")}
        assert files == NEW if was_begun else files in (OLD, NEW)
        replace_together(folder / "environment.yml", {folder / name: data for name, data in NEW.items()})
        assert content(folder) == NEW
        seen.add(was_begun)
    assert seen == {True, False}


def test_a_file_that_was_edited_after_the_crash_is_not_overwritten(tmp_path: Path) -> None:
    folder = folder_with(OLD, tmp_path / "one")
    moment = next(n for n in range(1, 30) if _is_between(folder_with(OLD, tmp_path / f"try{n}"), n))
    change_in_a_process(folder, moment)
    (folder / "environment.yml").write_bytes(b"mine\n")
    with pytest.raises(EnvforgeError) as caught:
        complete_transaction(folder / "environment.yml")
    assert caught.value.code == "edited-since"
    assert (folder / "environment.yml").read_bytes() == b"mine\n"


def _is_between(folder: Path, moment: int) -> bool:
    change_in_a_process(folder, moment)
    return (folder / ".environment.yml.envforge-change").exists()


def test_a_disk_that_refuses_leaves_the_old_state(tmp_path: Path) -> None:
    folder = folder_with(OLD, tmp_path / "one")
    (folder / ".conda-lock.yml.envforge-new").mkdir()
    with pytest.raises(OutsideError):
        replace_together(folder / "environment.yml", {folder / name: data for name, data in NEW.items()})
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == OLD
