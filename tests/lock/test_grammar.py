"""Test properties of every environment file: nothing is lost, and neither order nor comments matter."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from envforge.errors import EnvforgeError
from envforge.lock.check import unmet_requests
from envforge.lock.edit import add, parse_packages, remove
from envforge.lock.environment import parse_environment
from envforge.lock.inputs import Inputs, conda_lock_files, read_inputs
from tests.lock.change.conftest import Project, new_project, package
from tests.lock.grammar import (
    CONDA,
    PLATFORMS,
    WHEELS,
    Item,
    expected,
    items,
    render,
    render_flow,
    without_comments,
)
from tests.lock.support import REQUEST
from tests.lock.torchindex import wheel
from tests.support.channel import Channel
from tests.support.loopback import Loopback

PATH = Path("environment.yml")
PYTHON = Version("3.10.1")
SLOWLY = settings(deadline=None)  # the first example imports rattler
LISTS = st.lists(items(), max_size=8)


def read(*texts: str) -> Inputs:
    files = tuple(parse_environment(text, PATH) for text in texts)
    return Inputs(files=files, platforms=PLATFORMS, virtual_packages_path=PATH, virtual_packages=None)


def found(inputs: Inputs, platform: str) -> dict[tuple[bool, str], set[str]]:
    """Return the bounds of each package that the reader finds."""
    names = {}
    for one in inputs.wanted(platform):
        bounds = str(one.requirement.specifier) if one.requirement else one.spec.version if one.spec else ""
        names[one.requirement is not None, one.name] = {b.replace("==", "=") for b in bounds.split(",") if b}
    assert names.pop((False, "python")) == {"3.10.*"}
    return names


@SLOWLY
@given(LISTS)
def test_every_request_is_found_and_nothing_else(requested: list[Item]) -> None:
    for text in (render(requested), render(requested, end="")):
        for platform in PLATFORMS:
            assert expected(requested, platform) == found(read(text), platform)


@SLOWLY
@given(LISTS, st.booleans())
def test_flow_style_and_json_mean_the_same(requested: list[Item], is_json: bool) -> None:
    plain = without_comments(requested)
    for platform in PLATFORMS:
        assert expected(plain, platform) == found(read(render_flow(plain, is_json=is_json)), platform)


@SLOWLY
@given(LISTS, st.randoms(use_true_random=False))
def test_order_of_lines_does_not_matter(requested: list[Item], random: object) -> None:
    moved = list(requested)
    random.shuffle(moved)  # type: ignore[attr-defined]
    one, other = read(render(requested)), read(render(moved))
    for platform in PLATFORMS:
        for is_complete in (False, True):
            files = [conda_lock_files(each, platform, is_complete=is_complete) for each in (one, other)]
            assert files[0] == files[1]


@SLOWLY
@given(LISTS, LISTS)
def test_several_files_request_what_one_file_does(first: list[Item], second: list[Item]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, "a.yml"), Path(folder, "b.yml")]
        for path, items_of_file in zip(files, (first, second), strict=True):
            path.write_text(render(items_of_file), encoding="utf-8")
        inputs = read_inputs(files[0], None, others=files[1:])
    for platform in PLATFORMS:
        assert expected(first + second, platform) == found(inputs, platform)


@SLOWLY
@given(LISTS, st.sampled_from(["channels: [other]", "dependencies: []", "platforms: [linux-64]"]))
def test_second_key_is_an_error_with_its_line(requested: list[Item], line: str) -> None:
    text = render(requested)
    with pytest.raises(EnvforgeError, match=f"line {len(text.splitlines()) + 1}: the key `.*:` is already on line"):
        parse_environment(f"{text}{line}\n", PATH)


@SLOWLY
@given(LISTS, st.sampled_from(["\n", ""]), st.booleans())
def test_add_then_remove_restores_every_byte(requested: list[Item], end: str, is_wheel: bool) -> None:
    packages = parse_packages(["fresh>=1"], "pip" if is_wheel else "conda")
    plain = without_comments(requested)
    block = render(requested, end=end)
    for text in (block, block.replace("\n", "\r\n"), *(render_flow(plain, is_json=one) for one in (True, False))):
        added = add(text, packages, REQUEST)
        assert "fresh" in {entry.name for entry in parse_environment(added.text, PATH).entries}
        assert text == remove(added.text, ["fresh"], REQUEST).text


@pytest.fixture(scope="module")
def grammar_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("grammar")
    channel = Channel(folder / "conda-forge")
    for platform in PLATFORMS:
        channel.add(package("python", "3.10.1", build="h0_0_cpython", subdir=platform))
        for name in (*CONDA, "pip"):
            channel.add(*(package(name, version, subdir=platform) for version in ("1.0", "2.0", "2.5")))
    channel.index()
    with Loopback(folder) as server:
        yield server.url


@pytest.fixture(scope="module")
def grammar_project(tmp_path_factory: pytest.TempPathFactory, grammar_channel: str) -> Iterator[Project]:
    with new_project(tmp_path_factory.mktemp("world") / "world", grammar_channel) as one:
        one.wheels = {name: [(wheel(name, version), None) for version in ("1.0", "2.0", "2.5")] for name in WHEELS}
        yield one


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requested=st.lists(items(), min_size=3, max_size=8))
def test_real_conda_lock_locks_exactly_what_is_requested(grammar_project: Project, requested: list[Item]) -> None:
    grammar_project.lockfile.unlink(missing_ok=True)
    grammar_project.write(render(requested))
    grammar_project.lock()
    lock = grammar_project.read()
    for platform in PLATFORMS:
        names = {(p.manager == "pip", p.name) for p in lock.for_platform(platform)}
        assert set(expected(requested, platform)) == {key for key in names if key[1] not in {"python", "pip"}}
        assert list(unmet_requests(read(render(requested)), lock, platform)) == []


def test_conda_lock_reads_the_written_files_as_they_are_meant(tmp_path: Path) -> None:
    """conda-lock's own parser finds the same names and versions in the files that envforge writes for it."""
    text = (
        "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies:\n  - python 3.10.*\n  - pip 24.0\n"
        "  - cedar >=1|=0.5  # not cedar[x]\n  - cedar <3\n  - birch=1.2=py*_0\n  - apple[version='>=2', build='h*']\n"
        "  - conda-forge::daisy\n  - pip:\n      - red[fast] >=1\n      - red<2; os_name == 'posix'\n"
    )
    paths = []
    for number, content in enumerate(conda_lock_files(read(text), "linux-64")):
        paths.append(tmp_path / f"{number}.yml")
        paths[-1].write_text(content, encoding="utf-8")
    (tmp_path / "mapping.json").write_text("{}", encoding="utf-8")
    program = (
        "import json, pathlib, sys; from conda_lock.src_parser import make_lock_spec; "
        "spec = make_lock_spec(src_files=list(map(pathlib.Path, sys.argv[2:])), mapping_url=sys.argv[1]); "
        "print(json.dumps([[d.manager, d.name, d.version, getattr(d, 'build', None), d.conda_channel, d.extras] "
        "for d in spec.dependencies['linux-64']]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "mapping.json"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(json.loads(done.stdout)) == [
        ["conda", "apple", ">=2", "h*", None, []],
        ["conda", "birch", "1.2", "py*_0", None, []],
        ["conda", "cedar", "<3,>=1|<3,=0.5", None, None, []],
        ["conda", "daisy", "", None, "conda-forge", []],
        ["conda", "pip", "24.0", None, None, []],
        ["conda", "python", "3.10.*", None, None, []],
        ["pip", "red", "<2,>=1", None, None, ["fast"]],
    ]
