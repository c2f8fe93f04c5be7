"""Test how channel names are resolved, the order of channels, and what is hidden in URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.base.urls import Mirrors
from envforge.lock.solver.request import Naming
from tests.lock.solver.channel import package
from tests.lock.solver.conftest import Ask
from tests.support.channel import Channel

LINUX = Naming(mirrors=Mirrors(), platform="linux-64")


@pytest.mark.parametrize(
    ("word", "name", "address"),
    [
        ("conda-forge", "conda-forge", "https://conda.anaconda.org/conda-forge"),
        ("conda-forge/label/rc", "conda-forge/label/rc", "https://conda.anaconda.org/conda-forge/label/rc"),
        ("https://conda.anaconda.org/pytorch/", "pytorch", "https://conda.anaconda.org/pytorch"),
        ("https://prefix.example/a/b", "b", "https://prefix.example/a/b"),
        ("/srv/my channel", "my channel", "file:///srv/my%20channel"),
    ],
)
def test_a_channel_is_a_name_an_address_or_a_path(word: str, name: str, address: str) -> None:
    found = LINUX.channel(word)

    assert (found.name, found.address, found.source) == (name, address, address)


def test_bare_names_follow_the_alias() -> None:
    naming = Naming(mirrors=Mirrors(), platform="linux-64", alias="https://channels.example")

    assert naming.channel("conda-forge").address == "https://channels.example/conda-forge"


def test_defaults_are_the_channels_of_anaconda() -> None:
    windows = Naming(mirrors=Mirrors(), platform="win-64")

    assert [channel.address for channel in LINUX.channels(["defaults", "conda-forge", "defaults"])] == [
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
        "https://conda.anaconda.org/conda-forge",
    ]
    assert windows.channels(["defaults"])[-1].address == "https://repo.anaconda.com/pkgs/msys2"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("conda forge", "channel `conda forge` is not a name, a URL, or a path"),
        ("https://joe:pw@[host/x", "channel `https://…` is not a valid URL"),
        ("http://a b/c", "channel `http://a b/c` is not a valid URL"),
        ("http://", "is not a valid URL"),
        ("ftp://host/x", "'ftp' is not a supported scheme"),
    ],
)
def test_a_word_that_is_no_channel_is_refused_without_its_secrets(create: Ask, word: str, reason: str) -> None:
    message = create(word, "liba").message

    assert reason in message
    assert "pw@" not in message


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two channels with ``liba``: 1.0 in ``first``, 2.0 and a package of its own in ``second``."""
    first, second = Channel(tmp_path / "first"), Channel(tmp_path / "second")
    first.add(package("liba", "1.0"))
    second.add(package("liba", "2.0"), package("libz", "1.0", "liba"))
    first.index()
    second.index()
    return first.folder.as_uri(), second.folder.as_uri()


def test_the_first_channel_with_a_package_is_its_only_one(create: Ask, two: tuple[str, str]) -> None:
    assert create(two[0], "--channel", two[1], "libz").packages == {"liba": "1.0", "libz": "1.0"}


@pytest.mark.parametrize("stated", ["flag", "variable"])
def test_channel_priority_can_be_disabled(create: Ask, two: tuple[str, str], stated: str) -> None:
    words = ["--no-channel-priority"] if stated == "flag" else []
    variables = {"CONDA_CHANNEL_PRIORITY": "disabled"} if stated == "variable" else {}

    answer = create(two[0], "--channel", two[1], *words, "libz", **variables)

    assert answer.packages == {"liba": "2.0", "libz": "1.0"}


def test_a_spec_that_names_a_channel_is_taken_from_there(create: Ask, two: tuple[str, str]) -> None:
    assert create(two[0], "--channel", two[1], "second::liba").packages == {"liba": "2.0"}


def test_a_channel_that_only_a_spec_names_is_searched(create: Ask, two: tuple[str, str]) -> None:
    assert create(two[0], f"{two[1]}::libz").packages == {"liba": "1.0", "libz": "1.0"}
