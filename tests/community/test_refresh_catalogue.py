"""The weekly solve of the catalogue changes only lockfiles that would install other files."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.base.data_files import lockfiles_root, templates_root
from envforge.catalogue.index import PLACEHOLDER
from envforge.errors import EnvforgeError
from envforge.pytorch.matrix import load_matrix
from tools.catalogue.build import write
from tools.catalogue.select_target import Plan, plan, read_targets
from tools.refresh_catalogue import Refresher

TODAY = dt.date(2026, 12, 7)
TARGETS = read_targets()
JINJA2 = re.compile(r"jinja2-3[\w.]+-pyh[0-9a-f]+_\d+\.conda")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    shutil.copytree(lockfiles_root(), tmp_path / "lockfiles")
    return tmp_path / "lockfiles"


def plans() -> list[Plan]:
    return [plan(target, load_matrix(), templates_root()) for target in TARGETS]


def refresher(stored: Path, solve: Callable[[Plan], str]) -> Refresher:
    return Refresher(stored, solve, lambda addresses: dict.fromkeys(addresses, 10), TODAY)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def again(stored: Path) -> Callable[[Plan], str]:
    """Solve to the stored lockfile, with addresses as a real index has them."""
    return lambda planned: (
        (stored / planned.target.file)
        .read_text(encoding="utf-8")
        .replace(PLACEHOLDER, "https://index.example/packages/")
        .replace("# Generated", "# Solved later")
    )


def test_refresh_changes_no_byte_if_nothing_is_new(stored: Path) -> None:
    before = contents(stored)
    tool = refresher(stored, again(stored))
    write(tool.refresh(plans()), stored)
    assert contents(stored) == before
    assert (tool.changes, tool.failures) == ([], [])


def test_refresh_replaces_only_the_lockfile_that_changed(stored: Path) -> None:
    name = "tabular/cu118-linux-64.conda-lock.yml"
    before = contents(stored)

    def solve(planned: Plan) -> str:
        text = again(stored)(planned)
        return JINJA2.sub("jinja2-3.9.9-pyhd8ed1ab_0.conda", text) if planned.target.file == name else text

    tool = refresher(stored, solve)
    write(tool.refresh(plans()), stored)
    after = contents(stored)
    assert {path for path in after if after[path] != before[path]} == {name, "index.json", "PROVENANCE.json"}
    assert b"index.example" not in after[name]
    (entry,) = (e for e in json.loads(after["index.json"])["entries"] if e["file"] == name)
    assert entry["date"] == "2026-12-07"
    assert entry["requirements"]["files_sized"] == entry["requirements"]["files"]
    assert f"## `{name}`" in tool.summary()
    assert "jinja2" in tool.summary()
    assert b"public channels and indexes on 2026-12-07" in after["PROVENANCE.json"]


def test_refresh_keeps_a_lockfile_that_cannot_be_solved(stored: Path) -> None:
    before = contents(stored)

    def solve(planned: Plan) -> str:
        if planned.target.platform == "win-64":
            raise EnvforgeError("no solution", code="example")
        return again(stored)(planned)

    tool = refresher(stored, solve)
    write(tool.refresh(plans()), stored)
    assert contents(stored) == before
    assert len(tool.failures) == len({target.template for target in TARGETS})
    assert "- `tabular/cpu-win-64.conda-lock.yml`: no solution" in tool.summary()
