"""An invalid lockfile is rejected or harmless: no other package is installed, and no prefix is left incomplete."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.prefix.journal import unfinished
from tests.prefix.install.support import LockWriter, Place, tree
from tests.support.channel import Channel

NAMES = ("greeting", "extra", "binary")
Mutation = Callable[[str], str]


def _replace(old: str, new: str) -> Mutation:
    def mutate(text: str) -> str:
        changed = re.sub(old, new, text, count=1, flags=re.MULTILINE)
        assert changed != text, f"`{old}` is not in the lock"
        return changed

    return mutate


MUTATIONS: dict[str, Mutation] = {
    "empty": lambda _: "",
    "not YAML": lambda text: text + "\n: [",
    "cut in half": lambda text: text[: len(text) // 2],
    "another format version": _replace(r"^version: 1$", "version: 2"),
    "no packages": _replace(r"^package:$", "packages:"),
    "no metadata": _replace(r"^metadata:$", "meta:"),
    "no platforms": _replace(r"^  platforms:\n  - .*$", "  platforms: []"),
    "another platform": _replace(r"^  platform: .*$", "  platform: plan9-64"),
    "unknown manager": _replace(r"manager: conda", "manager: cargo"),
    "a wheel's manager": _replace(r"manager: conda", "manager: pip"),
    "wrong sha256": _replace(r"sha256: ....", "sha256: 0000"),
    "short sha256": _replace(r"(sha256: \w{60})\w{4}", r"\1"),
    "no sha256": _replace(r"^    sha256: .*\n", ""),
    "no hash at all": _replace(r"^  hash:\n    md5: .*\n    sha256: .*\n", ""),
    "no address": _replace(r"^  url: .*\n", ""),
    "empty address": _replace(r"^  url: .*$", "  url: ''"),
    "address of a folder": _replace(r"(^  url: .*)/.*$", r"\1/"),
    "address with parents": _replace(r"^  url: .*$", "  url: http://127.0.0.1/x/..%2F..%2Fevil.conda"),
    "address of a local program": _replace(r"^  url: .*$", "  url: file:///bin/sh"),
    "another name": _replace(r"name: greeting", "name: numpy"),
    "another version": _replace(r"version: '1.0'", "version: '9.9'"),
    "a number for a name": _replace(r"name: greeting", "name: 12"),
    "a list for a package": _replace(r"^package:\n", "package:\n- []\n"),
    "tags that make Python objects": _replace(r"name: greeting", "name: !!python/object/apply:os.getcwd []"),
}


@pytest.fixture
def text(lock: LockWriter, channel: Channel, tmp_path: Path) -> str:
    return lock.conda(*(channel.packages[name] for name in NAMES)).write(tmp_path / "whole.yml").read_text()


def _is_refused_or_harmless(text: str, place: Place, whole: set[str], name: str) -> bool:
    """Whether the damaged lock was refused; raises where it did harm."""
    damaged = place.folder / f"{name}.yml"
    damaged.write_text(text, encoding="utf-8")
    prefix = place.folder / name
    try:
        place.install(damaged, prefix=prefix)
    except EnvforgeError:
        assert not prefix.exists(), f"{name}: something is left"
        return True
    assert unfinished(prefix) is None
    assert {path for path in tree(prefix) if not path.startswith("conda-meta/")} <= whole, name
    return False


def _whole(text: str, place: Place) -> set[str]:
    lock = place.folder / "conda-lock.yml"
    lock.write_text(text, encoding="utf-8")
    place.install(lock)
    return {path for path in tree(place.prefix) if not path.startswith("conda-meta/")}


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in {"no sha256", "another platform"}])
def test_a_lock_that_is_damaged_in_a_known_way_is_refused(text: str, place: Place, name: str) -> None:
    whole = _whole(text, place)
    assert _is_refused_or_harmless(MUTATIONS[name](text), place, whole, "damaged")


@pytest.mark.parametrize("name", ["no sha256", "another platform"])
def test_a_lock_that_only_says_less_does_no_harm(text: str, place: Place, name: str) -> None:
    whole = _whole(text, place)
    assert not _is_refused_or_harmless(MUTATIONS[name](text), place, whole, "damaged")


def test_sixty_random_damages_are_refused_or_harmless(text: str, place: Place) -> None:
    chance = random.Random(7)
    whole = _whole(text, place)
    refused = 0
    for number in range(60):
        at = chance.randrange(len(text))
        letter = chance.choice(string.ascii_letters + string.digits + ":-'[]{} \n")
        refused += _is_refused_or_harmless(text[:at] + letter + text[at + 1 :], place, whole, f"random-{number}")
    assert refused > 20
