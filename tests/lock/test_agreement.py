"""Test ``lock --check``: it lists the differences without solving or downloading."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.check import check_lock
from envforge.lock.project import input_sha256
from envforge.lock.request import LockReport
from tests.lock.conftest import World, environment_text

Differs = Callable[[str], list[str]]


@pytest.fixture
def differs(locked: tuple[World, LockReport], tmp_path: Path) -> Differs:
    """Check the lock of ``environment_text()`` against another text, without any server."""

    def run(text: str) -> list[str]:
        shutil.copy(locked[0].lockfile, tmp_path / "conda-lock.yml")
        (tmp_path / "environment.yml").write_text(text, encoding="utf-8")
        return [str(one) for one in check_lock(tmp_path / "environment.yml", tmp_path / "conda-lock.yml")]

    return run


def test_an_unchanged_input_agrees_whatever_its_line_ends(differs: Differs) -> None:
    assert differs(environment_text()) == []
    assert differs(environment_text().replace("\n", "\r\n")) == []


def test_a_remark_and_another_order_do_not_matter(differs: Differs) -> None:
    text = environment_text()
    moved = text.replace('  - "numpy"\n', "").replace('  - "python 3.10.*"\n', '  - "numpy"\n  - "python 3.10.*"\n')
    assert differs("# who asked for this?\n" + moved) == []


def test_each_change_is_named(differs: Differs) -> None:
    text = environment_text(conda=("pandas",), pip=("torch==2.7.0+cu118", "torchvision==0.22.1+cu118"))
    assert differs(text.replace('"numpy"', '"numpy <2"')) == [
        "`numpy <2` (conda) is requested on linux-64, but `2.2.6` is locked",
        "`pandas` (conda) is requested on linux-64, but it is not locked",
        "`torch==2.7.0+cu118` (pip) is requested on linux-64, but `2.7.1+cu118` is locked",
    ]


def test_a_bound_that_the_lock_satisfies_is_a_change_all_the_same(differs: Differs) -> None:
    (found,) = differs(environment_text().replace('"numpy"', '"numpy >=2"'))
    assert found == (
        "a version constraint, an index, or a virtual package has changed on linux-64, but the lockfile was solved for "
        "the previous input (virtual packages from the torch version)"
    )


def test_platforms_and_channels_are_compared(differs: Differs) -> None:
    assert differs(environment_text(platforms=("linux-64", "osx-arm64"))) == [
        "platform `osx-arm64` is requested, but it is not locked"
    ]
    found = differs(environment_text().replace("  - conda-forge\n", "  - conda-forge\n  - bioconda\n"))
    assert found[0] == "channels `conda-forge bioconda` are requested, but the lockfile uses `conda-forge`"


def test_a_missing_lock_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(environment_text(), encoding="utf-8")
    with pytest.raises(EnvforgeError) as caught:
        check_lock(tmp_path / "environment.yml", tmp_path / "conda-lock.yml")
    assert caught.value.commands == (f"envforge lock -f {tmp_path / 'environment.yml'}",)


def test_input_hash_tells_a_missing_file_from_an_empty_one() -> None:
    assert input_sha256("a", None) != input_sha256("a", "")
    assert input_sha256("a\r\n", "b\r\n") == input_sha256("a\n", "b\n")
