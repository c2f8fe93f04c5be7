"""Test edits of unusual environment files: every other byte and package is preserved, or the edit is rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.edit import add, parse_packages, remove
from envforge.lock.environment import parse_environment
from tests.lock.support import REQUEST

HEAD = "channels: [conda-forge]\nplatforms: [linux-64, osx-arm64]\n"
TEXTS = [
    "dependencies:\n  - a # c\n  - c\n\n  # tail\n\n\n# end\n",
    "dependencies:\n  - a\n  - pip:\n    - b # x\n    # tail\n\n  # tail2\n",
    "dependencies:\n    -   a\n    -   pip:\n            -   b",
    "dependencies:\n  - pip:\n    - b\n  - a\n",
    "dependencies: [a,\n   b,   # c\n   ]\n",
    "dependencies: []\nname: x\n",
    "dependencies:\n  - {pip: [b]}\n  - a\n",
    "dependencies:\n  - a\n  - pip: # c\n  - c\n",
    "dependencies:\n  - c\n  - sel(linux):\n    - a\n  # t\nname: x\n",
    "dependencies:\n  - >-\n    a\n  - |\n    b\n\nname: x\n",
    'dependencies:\n  - "a >=1"\n  - c\nname: x\n',
    "dependencies:\n  - a  # k\n  -\n    b\n",
    "dependencies:\n  - a\n  -  # k\n\n    b",
    "dependencies: &d\n  - !!str a\n  - c\n...\n",
    "\ufeffdependencies:\n  - a\n  - c\n",
    '{\n "dependencies": [\n  "a",\n  {"pip": [\n    "b"\n  ]}\n ]\n}\n',
]


def packages(text: str, but: str) -> list[tuple[object, ...]]:
    found = parse_environment(text, Path("e.yml")).entries
    return [(one.name, one.section, one.platforms) for one in found if one.name != but]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
@pytest.mark.parametrize("text", TEXTS)
def test_unusual_file_is_restored_and_keeps_its_packages(text: str, end: str) -> None:
    text = (text if text[0] in "{\ufeff" else HEAD + text).replace("\n", end)
    for section in ("conda", "pip"):
        added = add(text, parse_packages(["fresh>=1"], "pip" if section == "pip" else "conda"), REQUEST)
        assert packages(text, "fresh") == packages(added.text, "fresh")
        assert text == remove(added.text, ["fresh"], REQUEST).text
    for name in {one.name for one in parse_environment(text, Path("e.yml")).entries}:
        assert packages(text, name) == packages(remove(text, [name], REQUEST).text, name)


@pytest.mark.parametrize(
    ("dependencies", "name", "code"),
    [
        ("dependencies:\n  - a\n", "a", "only-package"),
        ("dependencies:\n  - &x a\n  - c\n  - *x\n", "a", "cannot-edit"),
        ("dependencies: [a, # [osx]\n  c]\n", "c", "cannot-edit"),
        ("dependencies: [\n  a, # [osx]\n  c # [linux]\n  ]\n", "c", "cannot-edit"),
    ],
)
def test_package_that_others_depend_on_is_not_removed(dependencies: str, name: str, code: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        remove(HEAD + dependencies, [name], REQUEST)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "dependencies", ["dependencies: [a, c] # [osx]\n", "dependencies:\n  - a\n  - pip: # [linux]\n    - b\n"]
)
def test_package_is_not_added_below_the_selector_of_others(dependencies: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        add(HEAD + dependencies, parse_packages(["fresh"], "pip"), REQUEST)
    assert caught.value.code == "cannot-edit"
