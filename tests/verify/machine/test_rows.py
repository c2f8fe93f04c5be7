"""Test each machine check on its two scenarios, through the real observer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from envforge.verify.record import Record
from envforge.verify.values import Verdict
from tests.verify.machine.scenarios import SCENARIOS, Scenario
from tests.verify.machine.scenes import CHECKS, Scene, findings

Observed = Callable[[Scene], Record]

# The table of checks has 48 rows. These are the machine's; those of the environment and of training are named beside.
MACHINE_ROWS = {*range(1, 9), *range(11, 26), *range(27, 32), 33, 36, 37, *range(41, 45), 47}
OTHER_ROWS = {9, 10, 26, 32, 34, 35, 38, 39, 40, 45, 46, 48}
BAD = (Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN)


def test_every_row_of_the_machine_has_a_check() -> None:
    assert {check.row for check in CHECKS if check.row is not None} == MACHINE_ROWS
    assert set(range(1, 49)) == MACHINE_ROWS | OTHER_ROWS


def test_every_check_has_a_scenario() -> None:
    assert {scenario.check for scenario in SCENARIOS} == {check.id for check in CHECKS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.check}: {scenario.name}")
def test_the_check_fires_and_says_what_to_do(scenario: Scenario, observed: Observed) -> None:
    found = findings(observed(scenario.scene), scenario.check)
    fired = [finding for finding in found if finding.verdict is scenario.verdict and scenario.words in finding.observed]
    assert fired, [(finding.verdict.value, finding.observed) for finding in found]
    (finding, *_) = fired
    assert finding.source
    assert finding.why
    if scenario.verdict in BAD:
        assert finding.wanted
        assert finding.command


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.check}: {scenario.name}")
def test_the_check_is_content_where_nothing_is_wrong(scenario: Scenario, observed: Observed) -> None:
    verdicts = {finding.verdict for finding in findings(observed(scenario.quiet), scenario.check)}
    assert scenario.calm in verdicts
    assert verdicts.isdisjoint((*BAD, scenario.verdict))


def test_no_verdict_is_worse_than_the_severity_of_its_check() -> None:
    order = [Verdict.INFO, Verdict.WARN, Verdict.FAIL]
    severities = {check.id: check.severity for check in CHECKS}
    for scenario in SCENARIOS:
        assert order.index(scenario.verdict) <= order.index(severities[scenario.check]), scenario.check
