"""Test that the data files are valid and consistent; errors contain the file, the path, expected, and found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.version import Version

from envforge.base.data_files import DataFileError, data_folder, read_data
from envforge.base.distribution import reinstall_command
from envforge.pytorch.matrix import Matrix, load_matrix
from tests.pytorch.machines import MATRIX

BUILT_IN = load_matrix()
FACTS = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"tag": "cpu"', '"tag": "cuda"', "builds[0].tag`: expected `cpu` or a CUDA tag, found `cuda`"),
        ('"3.8"', "3.8", "builds[0].pythons[0]`: expected a version such as `12.4`, as a string, found `3.8`"),
        ('"torchvision": "0', '"torchvision": "v-0', "builds[0].torchvision`: expected a version"),
        ('ies": ["3.7"', 'ies": ["37"', "capabilities[0]`: expected a compute capability such as `8.6`, as a string"),
        ('"linux": "450.80.02"', '"linux": ""', "families[0].linux`: expected a version such as"),
        ('"families"', '"family"', "`families`: expected a value, found nothing"),
        ('"toolkits": [', '"toolkits": ', "expected JSON, found"),
    ],
)
def test_a_damaged_data_file_stops_with_file_and_path(tmp_path: Path, old: str, new: str, fault: str) -> None:
    text = (data_folder() / "matrix.json").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "matrix.json"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataFileError) as caught:
        read_data("matrix.json", Matrix, tmp_path)
    assert fault in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.commands == (reinstall_command(),)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"matrix\.json"):
        read_data("matrix.json", Matrix, tmp_path)


def test_the_matrix_goes_from_torch_20_to_215() -> None:
    assert (MATRIX.torches[0], MATRIX.torches[-1]) == (Version("2.0.0"), Version("2.15.0"))
    assert [str(tag) for tag in MATRIX.tags][:3] == ["cpu", "cu117", "cu118"]
    assert MATRIX.platforms == ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")


def test_every_cuda_build_has_kernels_and_drivers() -> None:
    for build in BUILT_IN.builds:
        if build.tag.cuda is not None:
            assert build.capabilities
            assert BUILT_IN.direct_minimum(build.tag.cuda) is not None
            assert BUILT_IN.family_minimum(build.tag.cuda) is not None


def test_every_platform_of_a_release_has_a_python_in_common() -> None:
    for torch in BUILT_IN.torches:
        builds = [build for build in BUILT_IN.builds if build.torch == torch]
        assert set.intersection(*(set(build.pythons) for build in builds))


def test_only_reported_and_planned_builds_are_unconfirmed() -> None:
    unconfirmed = {(str(b.torch), str(b.tag)) for b in MATRIX.builds if not b.confirmed}
    planned = {("2.15.0", "cpu"), ("2.15.0", "cu130"), ("2.15.0", "cu132")}
    assert unconfirmed == planned | {(torch, "cu129") for torch in ("2.9.0", "2.9.1", "2.11.0", "2.13.0")}


@pytest.mark.skipif(not FACTS.is_dir(), reason="the collected facts are not beside this checkout")
def test_the_driver_table_is_that_of_the_facts() -> None:
    facts = json.loads((FACTS / "nvidia.json").read_text(encoding="utf-8"))
    table = {row["toolkit"]: row for row in facts["toolkit_driver"]["rows"]}
    for row in MATRIX.toolkits:
        stated = table.get(str(row.cuda))
        if stated is not None:
            assert row.linux == Version(stated["linux"])
            assert stated["windows"] is None or row.windows == Version(stated["windows"])
    stated_families = facts["minor_version_compatibility"]
    for family in MATRIX.families:
        if f"{family.cuda.major}.x" in stated_families:
            assert family.linux == Version(stated_families[f"{family.cuda.major}.x"]["linux"])
