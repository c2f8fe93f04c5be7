"""Skip the tests of this directory unless ``-m`` names the marker ``network``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import requests

from envforge.base.urls import Mirrors
from envforge.lock.pages import Downloads

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    is_wanted = "network" in config.getoption("markexpr")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.network)
            if not is_wanted:
                item.add_marker(pytest.mark.skip(reason="needs the real package servers: pass `-m network`"))


@pytest.fixture(scope="session")
def downloads() -> Iterator[Downloads]:
    """One session, as ``envforge lock`` has it."""
    made = Downloads(Mirrors(), lambda step: None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    """A plain session, for what servers answer to anyone."""
    with requests.Session() as made:
        yield made
