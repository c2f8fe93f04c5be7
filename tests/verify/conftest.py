"""Check that the command of every finding in these tests parses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from envforge.verify import checks as judge
from envforge.verify.checks import all_checks
from envforge.verify.record import Record
from envforge.verify.values import Check, Finding
from tests.support.commands import check_command

find = judge._findings
BUILT_IN = frozenset(check.id for check in all_checks())


def checked_findings(check: Check, record: Record) -> Iterator[Finding]:
    for finding in find(check, record):
        if finding.command and check.id in BUILT_IN:
            check_command(finding.command)
        yield finding


@pytest.fixture(autouse=True)
def checked_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_findings", checked_findings)
