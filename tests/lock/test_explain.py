"""Test errors from conda-lock's log: each cause has a code, and only a conflict suggests to loosen constraints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from envforge.errors import OutsideError
from envforge.lock.condalock import explain


def conda_log(**answer: Any) -> str:
    text = json.dumps({"success": False, **answer}, indent=2)
    return f"Could not lock the environment\n    Command: create\n    STDOUT:\n{text}\n    STDERR:\n\n"


@pytest.mark.parametrize(
    ("log", "code", "is_loosened"),
    [
        (conda_log(message="a conflicts with b", exception_name="UnsatisfiableError"), "no-solution", True),
        (conda_log(solver_problems=["package a requires b >=2, but none can be installed"]), "no-solution", True),
        ("x.y.SolverProblemError: Because a depends on b, version solving failed.\n", "no-solution", True),
        (conda_log(message="missing", exception_name="PackagesNotFoundError"), "no-such-package", False),
        (conda_log(solver_problems=["nothing provides requested nosuch"]), "no-such-package", False),
        (conda_log(reason="a >=9", code="packages-not-found", unknown=[]), "no-solution", False),
        (conda_log(reason="a", code="packages-not-found", unknown=["a"]), "no-such-package", False),
        (conda_log(reason="no channel", code="no-channel"), "no-channel", False),
        ("Traceback\nValueError: bad value\n", "conda-lock-failed", False),
        ("", "conda-lock-failed", False),
    ],
)
def test_cause_decides_code_and_hint(log: str, code: str, is_loosened: bool) -> None:
    error = explain(log, "linux-64")
    assert (error.code, error.exit_code) == (code, 1)
    assert ("loosen" in error.hint) is is_loosened


@pytest.mark.parametrize(
    ("log", "code"),
    [
        (conda_log(reason="cannot reach", code="channel-unreachable"), "channel-unreachable"),
        (conda_log(message="HTTP 500", exception_name="CondaHTTPError"), "channel-unreadable"),
        ("Traceback\nOSError: [Errno 28] No space left on device: '/tmp/x'\n", "conda-lock-failed"),
    ],
)
def test_external_failures_exit_with_3(log: str, code: str) -> None:
    error = explain(log, "linux-64")
    assert isinstance(error, OutsideError)
    assert (error.code, error.hint) == (code, "")


def test_hints_of_the_solver_are_kept_as_data() -> None:
    hint = {"purpose": "to do so", "command": "envforge lock"}
    error = explain(conda_log(reason="x", code="no-channel", hints=[hint]), "linux-64")
    assert error.commands == ("envforge lock",)
