"""The driver decides how a build is graded: never better than the oldest driver of its CUDA major version."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.pytorch.fit import MachineLimits, Misfit, driver_grade
from envforge.pytorch.matrix import Grade, Minimum, built_in_matrix

MATRIX = built_in_matrix()


def facts(driver: str, *, windows: bool = False) -> MachineLimits:
    return MachineLimits(
        platform="win-64" if windows else "linux-64",
        is_known=True,
        has_driver=True,
        driver=Version(driver),
        windows_driver=windows,
    )


def test_toolkit_with_a_driver_below_its_family_never_makes_it_direct() -> None:
    row = Minimum(cuda=Version("13.9"), linux=Version("300.10.04"), windows=Version("300"))
    matrix = replace(MATRIX, toolkits=(*MATRIX.toolkits, row))
    for windows in (False, True):
        assert isinstance(driver_grade(row.cuda, facts("535.104.05", windows=windows), matrix), Misfit)
        assert driver_grade(row.cuda, facts("580.65.06", windows=windows), matrix) is Grade.DIRECT


@pytest.mark.parametrize("windows", [False, True])
def test_driver_of_each_toolkit_runs_it(windows: bool) -> None:
    for row in MATRIX.toolkits:
        driver = str(row.driver(windows=windows))
        assert driver_grade(row.cuda, facts(driver, windows=windows), MATRIX) is Grade.DIRECT


def test_driver_of_the_family_runs_the_first_toolkit_as_minor_compatible() -> None:
    assert driver_grade(Version("13.0"), facts("580.10"), MATRIX) is Grade.MINOR_COMPATIBLE
