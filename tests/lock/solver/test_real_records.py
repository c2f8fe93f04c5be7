"""Solve the environment of an image classifier with real conda-forge records, and check it with conda's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lock.solver.channel import VIRTUAL, virtual_channel
from tests.lock.solver.conftest import Ask
from tests.support.loopback import Loopback

DATA = Path(__file__).parents[4] / "shared" / "data" / "conda-forge"
SPECS = ("python 3.11.*", "numpy", "pillow", "tqdm", "matplotlib-base", "pandas", "scikit-learn", "jupyterlab", "pip")
FACTS = {
    "linux-64": {},
    "osx-arm64": {"osx": "14.0", "unix": "0", "archspec": "1"},
    "win-64": {"win": "0", "archspec": "1"},
}
PUBLIC = "https://conda.anaconda.org/conda-forge"


def broken(records: list[dict[str, Any]], virtual: list[dict[str, Any]], specs: tuple[str, ...]) -> list[str]:
    """What conda finds wrong with an environment, see ``check_environment``."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("check_environment.py"))]
    question = json.dumps({"records": records, "virtual": virtual, "specs": specs})
    return list(json.loads(subprocess.run(command, input=question, capture_output=True, text=True, check=True).stdout))


def record(name: str, version: str, build: str = "0", depends: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "name": name, "version": version, "build": build, "build_number": 0, "depends": depends, "constrains": [],
    }  # fmt: skip


def test_the_check_finds_a_broken_dependency() -> None:
    records = [record("a", "1.0", depends=("b >=2", "c", "__glibc >=2.17")), record("b", "1.0")]

    found = broken(records, [record("__glibc", "2.28")], ("a 1.*", "b 2.*"))

    assert found == ["`b 2.*` was asked for", "a depends on `b >=2`", "a depends on `c`"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real records of conda-forge are not on this computer")
@pytest.mark.parametrize("platform", FACTS)
def test_every_dependency_of_a_real_solve_is_met(create: Ask, tmp_path: Path, platform: str) -> None:
    facts = FACTS[platform]
    virtual = virtual_channel(tmp_path / "virtual", platform, **facts)

    with Loopback(DATA) as server:
        mirror = f"{PUBLIC}={server.url}"
        answer = create("conda-forge", *SPECS, virtual=virtual, CONDA_SUBDIR=platform, ENVFORGE_MIRRORS=mirror)

    assert answer.code == 0, answer.json["message"]
    records = answer.json["actions"]["FETCH"]
    stated = {f"__{name}": (version, "0") for name, version in facts.items()} or VIRTUAL
    assert broken(records, [record(name, *fact) for name, fact in stated.items()], SPECS) == []
    assert 150 < len(records) < 250
    assert all(entry["url"] == f"{PUBLIC}/{entry['subdir']}/{entry['fn']}" for entry in records)
    assert {entry["subdir"] for entry in records} == {platform, "noarch"}
    assert all(entry["sha256"] for entry in records)
    linked = [entry["name"] for entry in answer.json["actions"]["LINK"]]
    assert sorted(linked) == sorted(entry["name"] for entry in records)
