"""The PyTorch index has the builds of the matrix and no newer ones, in the format that ``envforge lock`` reads."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.urls import Mirrors
from envforge.lock.pages import Downloads, IndexFile
from envforge.machine.record import load_machine
from envforge.pytorch.matrix import Build, Request, load_matrix
from envforge.pytorch.select import select

INDEX = "https://download.pytorch.org/whl"
MATRIX = load_matrix()
TAGS = [str(tag) for tag in MATRIX.tags]
SYSTEMS = {
    "linux-64": ("linux", "x86_64"),
    "linux-aarch64": ("linux", "aarch64"),
    "osx-64": ("macosx", "x86_64"),
    "osx-arm64": ("macosx", "arm64"),
    "win-64": ("win", "amd64"),
}


@cache
def page(tag: str, name: str = "torch") -> tuple[IndexFile, ...]:
    """Return the files of a page of the index, read once."""
    downloads = Downloads(Mirrors(), lambda step: None)
    try:
        found = downloads.page(f"{INDEX}/{tag}", name)
    finally:
        downloads.close()
    assert found.status == 200, found.url
    return found.files


def wheels_of(build: Build, name: str, version: str) -> list[IndexFile]:
    """Return the wheels on the index that a build of the matrix stands for."""
    system, processor = SYSTEMS[build.platform]
    found = []
    for file in page(str(build.tag), name):
        _, stated, _, tags = parse_wheel_filename(file.file_name)
        platforms = {tag.platform for tag in tags}
        if str(stated) == version and any(system in text and text.endswith(processor) for text in platforms):
            found.append(file)
    return found


@pytest.mark.parametrize("tag", TAGS)
def test_page_of_each_tag_lists_wheels_with_sha256(tag: str) -> None:
    files = page(tag)
    assert len(files) > 5
    newest = max(parse_wheel_filename(file.file_name)[1] for file in files)
    assert [f.file_name for f in files if parse_wheel_filename(f.file_name)[1] == newest and f.sha256 is None] == []


@pytest.mark.parametrize("tag", TAGS)
def test_index_has_each_confirmed_build_of_the_matrix(tag: str) -> None:
    builds = [build for build in MATRIX.builds if str(build.tag) == tag and build.confirmed]
    missing = [
        f"{name} {version} {build.platform}"
        for build in builds
        for name, version in build.pins
        if not wheels_of(build, name, version)
    ]
    assert missing == []


@pytest.mark.parametrize("tag", TAGS)
def test_index_has_the_pythons_of_each_confirmed_build(tag: str) -> None:
    wrong = []
    for build in (build for build in MATRIX.builds if str(build.tag) == tag and build.confirmed):
        wheels = wheels_of(build, "torch", build.pin(build.torch))
        stated = {t.interpreter for wheel in wheels for t in parse_wheel_filename(wheel.file_name)[3]}
        wanted = {f"cp{python.major}{python.minor}" for python in build.pythons}
        wrong += [f"{build}: {python}" for python in wanted - stated]
    assert wrong == []


@pytest.mark.parametrize("tag", TAGS)
def test_matrix_has_each_release_of_the_index(tag: str) -> None:
    """Red if PyTorch has released something: add it with tools/build_matrix.py."""
    known = {build.torch for build in MATRIX.builds if str(build.tag) == tag}
    offered = {Version(parse_wheel_filename(file.file_name)[1].base_version) for file in page(tag)}
    assert {version for version in offered if version >= min(MATRIX.torches)} - known == set()


def test_package_that_the_index_lacks_is_not_found() -> None:
    downloads = Downloads(Mirrors(), lambda step: None)
    try:
        found = downloads.page(f"{INDEX}/cpu", "envforge-no-such-package")
    finally:
        downloads.close()
    assert found.status in {403, 404}


@pytest.mark.parametrize("tag", ["cpu", "cu118", TAGS[-1]])
def test_metadata_of_the_newest_wheel_is_readable(tag: str, downloads: Downloads) -> None:
    newest = max((build for build in MATRIX.builds if str(build.tag) == tag), key=lambda build: build.torch)
    wheel = wheels_of(newest, "torch", newest.pin(newest.torch))[0]
    headers = downloads.metadata(wheel)
    names = {Requirement(line).name for line in headers.get_all("Requires-Dist") or ()}
    assert headers["Version"] == newest.pin(newest.torch)
    assert {"filelock", "sympy", "jinja2"} <= names


@pytest.mark.parametrize("profile", read_data("profiles.toml", dict[str, Any]))
def test_index_has_the_build_that_is_selected_for_each_profile(profile: str) -> None:
    build = select(load_machine(profile, {}), Request(), MATRIX).build
    for name, version in build.pins:
        assert wheels_of(build, name, version), f"{name} {version}"
