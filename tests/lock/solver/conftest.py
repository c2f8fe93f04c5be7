"""Fixtures for the solver: the small channel, and a function that calls the executable's ``main``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from envforge.lock.solver.__main__ import main
from tests.lock.solver.channel import tiny_channel, virtual_channel


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small channel."""
    return tiny_channel(tmp_path_factory.mktemp("solver") / "channel")


class Answer(Struct, frozen=True, kw_only=True):
    """What one call printed, read as JSON, and its exit code."""

    code: int
    json: Any

    @property
    def message(self) -> str:
        assert self.code == 1, self.json
        return str(self.json["message"])

    @property
    def packages(self) -> dict[str, str]:
        """Name and version of each package to fetch."""
        assert self.code == 0, self.json["message"]
        return {entry["name"]: entry["version"] for entry in self.json["actions"]["FETCH"]}


Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Put a call to the executable, with its own repodata cache."""

    def ask(*words: str, **environment: str) -> Answer:
        given = {"CONDA_SUBDIR": "linux-64", "RATTLER_CACHE_DIR": str(tmp_path / "cache"), **environment}
        code = main(words, given)
        return Answer(code=code, json=json.loads(capsys.readouterr().out))

    return ask


@pytest.fixture
def virtual(tmp_path: Path) -> str:
    """The address of a folder of virtual packages of a computer without a GPU."""
    return virtual_channel(tmp_path / "conda-lock-fake-repodata")


@pytest.fixture
def create(ask: Ask, virtual: str) -> Ask:
    """Solve for specs, as conda-lock asks for it."""

    def create(channel: str, *specs: str, virtual: str = virtual, **environment: str) -> Answer:
        words = ("--override-channels", "--channel", channel, "--channel", virtual, *specs)
        return ask("create", "--prefix", "/nowhere/prefix", "--dry-run", "--json", *words, **environment)

    return create
