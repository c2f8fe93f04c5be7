"""Test that conda packages are read as conda reads them, over generated packages."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envforge.lock.match_spec import BadSpecError, Spec, join_versions, matches, parse_spec

VERSIONS = (
    "0.9",
    "1",
    "1.0",
    "1.0.1",
    "1.0a1",
    "1.0.dev0",
    "1.1",
    "1.5",
    "1.10",
    "2.0",
    "10.0",
    "1!1.0",
    "2022a",
    "9e",
)
BUILDS = ("py_0", "cuda118_py_1", "h12_0_cpython")
PACKAGES = [(version, build) for version in VERSIONS for build in BUILDS]
OPERATORS = ("", "=", "==", ">=", "<=", ">", "<", "!=", "~=")
BOUNDS = ("1", "1.0", "1.*", "1.0.*", "1.0*", "1.5", "2", "1.0a1", "1!1", "2022a", "1.1.*", "0", "*")
BOUND = st.tuples(st.sampled_from(OPERATORS), st.sampled_from(BOUNDS)).map("".join)


@st.composite
def constraints(draw: st.DrawFn) -> str:
    words = draw(st.lists(BOUND, min_size=1, max_size=3))
    return words[0] + "".join(draw(st.sampled_from([",", "|", ", ", " | "])) + word for word in words[1:])


def generated(number: int) -> list[str]:
    """Return packages of every form, the same in each run."""
    chosen = random.Random(0)
    texts = []
    for _ in range(number):
        version = chosen.choice(OPERATORS) + chosen.choice(BOUNDS)
        for _ in range(chosen.choice([0, 0, 1, 2])):
            version += chosen.choice([",", "|", ", ", " | "]) + chosen.choice(OPERATORS) + chosen.choice(BOUNDS)
        build = chosen.choice(["", "", "py*", "*cuda*", "py_0", "*_cpython", "*"])
        if chosen.random() < 0.3:
            texts.append(f"pkg[version='{version}'" + (f", build='{build}']" if build else "]"))
        else:
            texts.append(f"pkg {version}" + (chosen.choice([" ", "="]) + build if build else ""))
    # conda reads the star of `=1.0*` as a letter, except in `name=1.0*`
    return [text for text in texts if "=1.0*" not in text and "=*" not in text]


def parsed(text: str) -> Spec | None:
    try:
        return parse_spec(text)
    except BadSpecError:
        return None


def test_accepted_packages_mean_what_they_mean_to_conda() -> None:
    read = {text: spec for text in generated(300) if (spec := parsed(text))}
    assert len(read) > 100
    request = json.dumps({"specs": [*read, *map(str, read.values())], "packages": PACKAGES})
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("check_match_spec.py"))]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=True)
    conda = json.loads(done.stdout)
    for text, spec in read.items():
        own = [number for number, (version, build) in enumerate(PACKAGES) if matches(spec, version, build)]
        assert (text, own) == (text, conda[str(spec)])  # what conda-lock receives
        if conda[text] is not None:  # conda rejects some spaces
            assert (text, own) == (text, conda[text])
        assert parse_spec(str(spec)) == spec


@settings(deadline=None)
@given(st.lists(constraints(), min_size=1, max_size=3))
def test_joined_constraints_hold_together(texts: list[str]) -> None:
    try:
        each = [parse_spec(f"pkg[version='{text}']") for text in texts]
        joined = parse_spec(f"pkg[version='{join_versions([one.version for one in each])}']")
        nested = parse_spec(f"pkg {','.join(f'({text})' for text in texts)}")
    except BadSpecError:
        assume(False)
    for version, build in PACKAGES:
        expected = all(matches(one, version, build) for one in each)
        assert expected == matches(joined, version, build) == matches(nested, version, build)


@pytest.mark.parametrize(
    "text", ["(" * 5000, "a (" + "(" * 5000, "a " + ",".join(["(1|2)"] * 40), "a [" * 100, "a" * 10000 + "::"]
)
def test_hostile_package_is_rejected_at_once(text: str) -> None:
    with pytest.raises(BadSpecError):
        parse_spec(text)
