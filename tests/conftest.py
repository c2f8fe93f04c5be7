"""Fixtures of every test."""

from __future__ import annotations

import pytest

from envforge.errors import EnvforgeError
from tests.support.commands import check_command
from tests.support.platforms import pytest_collection_modifyitems, pytest_ignore_collect

__all__ = ["pytest_collection_modifyitems", "pytest_ignore_collect"]


@pytest.fixture(autouse=True)
def every_hint_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the commands of each error that a test raises in this process."""
    construct = EnvforgeError.__init__

    def checked(self: EnvforgeError, message: str, **fields: object) -> None:
        construct(self, message, **fields)  # type: ignore[arg-type] # passed on as they came
        for command in self.commands:
            check_command(command)

    monkeypatch.setattr(EnvforgeError, "__init__", checked)
