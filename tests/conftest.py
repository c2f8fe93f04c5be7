"""Define the fixtures of all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from envforge.errors import EnvforgeError
from tests.support.commands import check_command
from tests.support.platforms import pytest_collection_modifyitems, pytest_ignore_collect

__all__ = ["pytest_collection_modifyitems", "pytest_ignore_collect"]

# `nohup` and a shell's `&` start programs with these ignored, and each child inherits it: tests that send them would
# wait for a child that never ends
for _name in ("SIGINT", "SIGHUP", "SIGQUIT"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)


# the same examples in each run, so that a change is judged by what it changes; `pytest --hypothesis-profile=default`
# searches for new ones; no deadline, because the time depends on the load of the machine
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def facts_are_the_built_in_ones() -> Iterator[None]:
    """Keep the refreshed facts of the developer out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVFORGE_FACTS", "built-in")
        yield


@pytest.fixture(scope="session", autouse=True)
def list_of_environments_is_unchanged() -> Iterator[None]:
    """Keep the prefixes of tests out of ``~/.conda/environments.txt``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDA_REGISTER_ENVS", "false")
        yield


@pytest.fixture(scope="session", autouse=True)
def tests_adopt_no_orphans() -> Iterator[None]:
    """Keep ``verify`` from making this process the parent of the orphans of all later tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envforge.base.process.adopt_orphans", lambda: None)
        yield


@pytest.fixture(autouse=True)
def every_hint_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the commands of each error that a test raises in this process."""
    construct = EnvforgeError.__init__

    def checked(self: EnvforgeError, message: str, **fields: object) -> None:
        construct(self, message, **fields)  # type: ignore[arg-type] # passed on as they came
        for command in self.commands:
            check_command(command)

    monkeypatch.setattr(EnvforgeError, "__init__", checked)
