"""Build the stub of the driver's libraries once, and observe each scene once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.verify.record import Record
from tests.support.nvml_stub import build_stub, has_compiler
from tests.verify.machine.scenes import Scene


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_compiler():
        pytest.skip("gcc is missing, which builds the stub of the driver's libraries")
    return build_stub(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory, stub: Path) -> Callable[[Scene], Record]:
    """The record of a computer; one of the tables is observed once, however many tests look at it."""
    known: dict[int, tuple[Scene, Record]] = {}

    def observe(scene: Scene) -> Record:
        if id(scene) not in known:
            known[id(scene)] = (scene, scene.record(tmp_path_factory.mktemp("scene") / "here", stub))
        return known[id(scene)][1]

    return observe
