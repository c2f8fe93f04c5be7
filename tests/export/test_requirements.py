"""The requirements of a lockfile are read only from the lockfile, and equal those in the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.catalogue.index import list_entries
from envforge.lock.lockfile import read_lockfile
from envforge.lock.needs import requirements_json, requirements_of
from envforge.pytorch.matrix import load_matrix
from tests.export.locks import CATALOGUE, CU118, NUMPY, PYTHON, REAL, lock, package

MATRIX = load_matrix()
ENTRIES = list_entries(CATALOGUE)

# Read in the locks by hand: the CUDA runtime or torch build in them, the newest glibc or macOS that one asks for.
REAL_NEEDS = {
    ("01-ai__Yi__conda-lock.yml", "linux-64"): "NVIDIA driver 520.61.05 or newer "
    "(450.80.02 with CUDA minor-version compatibility), glibc 2.17 or newer",
    ("AlexsLemonade__OpenScPCA-analysis__analyses__cell-type-scimilarity__conda-lock.yml", "osx-arm64"): "no NVIDIA "
    "GPU needed, macOS 12.0 or newer",
    ("ChristophHoenes__NumTimeProbe__ppc64le.conda-lock.yml", "linux-ppc64le"): "NVIDIA driver 470.42.01 or newer "
    "(450.80.02 with CUDA minor-version compatibility), glibc 2.17 or newer",
    ("ChristophHoenes__NumTimeProbe__conda-lock.yml", "win-64"): "NVIDIA driver 520.06 or newer "
    "(452.39 with CUDA minor-version compatibility)",
    ("CCRI-POPROX__poprox-recommender__conda-lock.yml", "win-64"): "no NVIDIA GPU needed",
}


@pytest.mark.parametrize("number", range(len(ENTRIES)), ids=[f"{e.variant}-{e.platforms[0]}" for e in ENTRIES])
def test_a_catalogue_lock_needs_what_its_index_states(number: int) -> None:
    entry = ENTRIES[number]
    found = requirements_of(read_lockfile(entry.path), entry.platforms[0], MATRIX)
    stated = entry.requirements
    assert found == replace(stated, download_bytes=0, files_sized=0, words=stated.words.split("; ")[0])


def test_known_sizes_are_added_up_and_said() -> None:
    other = replace(NUMPY, sha256="cd" * 32)
    found = requirements_of(lock(PYTHON, other), "linux-64", MATRIX, {"cd" * 32: 8_100_000_000})
    assert (found.download_bytes, found.files_sized, found.files) == (8_100_000_000, 1, 2)
    assert found.words.endswith("; more than 8.1 GB to download (1 of 2 sizes known)")


def test_a_wheel_with_an_unreadable_name_and_a_git_source_are_passed_over() -> None:
    odd = package("odd", "1", "https://packages.example/odd.whl")
    git = package("gitted", "1", "git+https://git.example/x.git@0123", manager="pip", sha256=None)
    assert requirements_of(lock(PYTHON, odd, git, CU118), "linux-64", MATRIX) == replace(
        requirements_of(lock(PYTHON, CU118), "linux-64", MATRIX), files=4
    )


def test_the_lowest_macos_of_a_wheel_counts_and_the_highest_of_all_packages() -> None:
    wheels = [
        package(name, "1.0", f"https://packages.example/{name}-1.0-cp310-cp310-{tags}.whl", platform="osx-arm64")
        for name, tags in (("a", "macosx_12_0_arm64.macosx_14_0_universal2"), ("b", "macosx_11_0_arm64"))
    ]
    assert requirements_of(lock(*wheels, platforms=("osx-arm64",)), "osx-arm64", MATRIX).words == (
        "no NVIDIA GPU needed, macOS 12.0 or newer"
    )


def test_requirements_are_written_as_the_index_has_them() -> None:
    written = requirements_json(requirements_of(lock(PYTHON, CU118), "linux-64", MATRIX))
    assert written["driver_minor_compatible"] == "450.80.02"
    assert written["compute_capabilities"] == ["3.7", "5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"]
    assert (written["glibc"], written["macos"]) == ("2.28", None)


def _real_locks() -> list[Path]:
    return sorted(REAL.glob("*.yml"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the recorded real lockfiles are not here")
def test_every_real_lock_is_read_and_its_needs_are_said_for_each_platform() -> None:
    said = {}
    for path in _real_locks():
        read = read_lockfile(path)
        for platform in read.platforms:
            said[path.name, platform] = requirements_of(read, platform, MATRIX).words
    assert len(said) >= 20
    assert all("NVIDIA" in words for words in said.values())
    assert {key: said[key] for key in REAL_NEEDS} == REAL_NEEDS
