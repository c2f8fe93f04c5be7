"""Test ``new --fresh`` with real conda-lock, the embedded solver, and recorded packages over loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envforge.base.data_files import lockfiles_root
from envforge.catalogue.index import list_entries
from envforge.cli import main
from tests.project.trees import tree
from tools.catalogue.records import CondaRecords
from tools.catalogue.torch_index import FolderServer, mirrors_to, write_torch_index
from tools.catalogue.wheels import WheelFacts
from tools.facts.read import FACTS


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options that send ``new`` to a server of this test, which has no other network."""
    served = tmp_path / "served"
    wheels = WheelFacts.read().wheels("2.7.1+cu118", "0.22.1+cu118", "cp310", "linux-64")
    write_torch_index(served, "cu118", wheels)
    CondaRecords.read(FACTS / "conda-forge").write_channel(served / "conda-forge")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with FolderServer(served) as server:
        yield [word for rule in mirrors_to(server.url).rules for word in ("--mirror", "=".join(rule))]


@pytest.mark.slow
def test_a_fresh_solve_of_the_recorded_packages_gives_the_lock_of_the_catalogue(
    tmp_path: Path, mirrors: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["image-classification", "net", "--machine", "a10g", "--cuda", "11.8", "--fresh"]

    assert main(["new", *arguments, *mirrors]) == 0

    entry = next(e for e in list_entries(lockfiles_root()) if str(e.selection.tag) == "cu118")
    assert "solved now" in capsys.readouterr().out
    assert (tmp_path / "net" / "conda-lock.yml").read_text(encoding="utf-8") == entry.path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_cannot_be_solved_leaves_no_project_and_names_locks_that_exist(
    tmp_path: Path, mirrors: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["image-classification", "net", "--machine", "cpu", "--cuda", "11.8", "--torch", "2.6.0"]

    assert main(["new", *arguments, *mirrors]) == 1

    err = capsys.readouterr().err
    assert "sympy" in err  # torch 2.6 wants exactly 1.13.1, which was not recorded
    assert "run `envforge new image-classification net --cuda 11.8 --torch 2.7.1 --machine cpu" in err
    assert "to create the project without a lockfile, run `envforge new" in err
    assert tree(tmp_path / "net") == {}
