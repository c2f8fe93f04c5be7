"""``envforge new`` searches the team's catalogue before the built-in one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from envforge.cli import main

NEW = ("--machine", "a10g", "--cuda", "11.8", "--defaults")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, whose user has no settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.delenv("ENVFORGE_CATALOGUE", raising=False)
    return tmp_path


def test_a_published_lock_is_taken_by_the_next_project_of_the_team(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "image-classification", "first", *NEW]) == 0
    lock = here / "first" / "conda-lock.yml"
    lock.write_text(lock.read_text(encoding="utf-8") + "# of the team\n", encoding="utf-8")
    publish = ["lockfiles", "publish", str(lock), "--catalogue", "team", "--publisher", "Ada"]
    assert main(publish) == 0
    capsys.readouterr()
    assert main(["new", "image-classification", "second", *NEW, "--catalogue", "team"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "from your team's catalogue: image-classification/cu118-linux-64, published 20" in said
    assert "by Ada" in said
    assert (here / "second" / "conda-lock.yml").read_bytes() == lock.read_bytes()


def test_a_catalogue_that_is_not_reached_is_told_of_and_passed_by(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert main(["new", "image-classification", "net", *NEW, "--catalogue", address]) == 0
    captured = capsys.readouterr()
    assert f"failed to read `index.json` of the catalogue `{address}`" in " ".join(captured.err.split())
    assert "from the catalogue: image-classification cu118" in " ".join(captured.out.split())


def test_a_damaged_catalogue_of_the_team_stops_new(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "team").mkdir()
    (here / "team" / "index.json").write_text("[]")
    assert main(["new", "image-classification", "net", *NEW, "--catalogue", "team"]) == 1
    assert "the lockfile catalogue is invalid" in capsys.readouterr().err
    assert not (here / "net").exists()


def test_a_place_that_holds_no_catalogue_yet_is_told_of_and_passed_by(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "image-classification", "net", *NEW, "--catalogue", "team"]) == 0
    assert "names: no catalogue found at `team`" in " ".join(capsys.readouterr().err.split())
