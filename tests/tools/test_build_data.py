"""The generated data files are rebuilt from `data/facts` only, and a release or a CUDA version is one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from envforge.base import toml
from envforge.base.data_files import data_folder, read_data
from envforge.lock.environment_spec import split_conda_spec
from envforge.pytorch.matrix import Matrix, Request, load_matrix
from envforge.pytorch.select import select
from tests.pytorch.machines import MATRIX, machine
from tools.build_data import main
from tools.facts.read import FACTS

RELEASE = """
[release]
torch = "99.0.0"
date = 2099-01-13
torchvision = "0.30.0"
torchaudio = "2.11.0"
evidence = "registry-metadata"
source = "made up for a test"
checked = 2099-01-14

[[wheels]]
platform = "linux-64"
tags = ["cpu", "cu990"]
pythons = ["3.11", "3.12"]
glibc = "2.28"
evidence = "release-matrix"
source = "made up for a test"
checked = 2099-01-14

[[kernels]]
tag = "cu990"
platforms = ["linux-64"]
capabilities = ["8.0", "9.0", "10.0"]
ptx = ["10.0"]
evidence = "release-table"
source = "made up for a test"
checked = 2099-01-14

[[requires]]
conda = ["typing_extensions >=4.99"]
source = "made up for a test"
checked = 2099-01-14

[[drops]]
conda = ["setuptools"]
source = "made up for a test"
checked = 2099-01-14
"""
CUDA = """
[[toolkit]]
cuda = "99.0"
linux = "9900.10"
windows = "9900"
evidence = "release-notes"
source = "made up for a test"
checked = 2099-01-14

[[family]]
major = 99
linux = "9900"
windows = "9900"
evidence = "minor-version"
source = "made up for a test"
checked = 2099-01-14

[[branch]]
driver = 9900
cuda = "99.0"
source = "made up for a test"
checked = 2099-01-14
"""


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """A copy of the facts that a test may change."""
    return shutil.copytree(FACTS, tmp_path / "facts", ignore=shutil.ignore_patterns("wheels", "conda-forge"))


def build(facts: Path) -> int:
    output = facts.parent / "data"
    output.mkdir(exist_ok=True)
    return main(["--facts", str(facts), "--output", str(output)])


def built_matrix(facts: Path) -> Matrix:
    assert build(facts) == 0
    return read_data("matrix.json", Matrix, facts.parent / "data")


def _current_requirements(folder: Path) -> dict[str, str]:
    rows = json.loads((folder / "torch_requirements.json").read_text(encoding="utf-8"))["requirements"]
    return {split_conda_spec(row["conda"])[0]: row["conda"] for row in rows if "before" not in row}


def test_rebuilt_files_equal_the_committed_ones(facts: Path) -> None:
    assert build(facts) == 0

    built = {path.name: path.read_bytes() for path in (facts.parent / "data").iterdir()}
    assert len(built) == 5
    assert built == {name: (data_folder() / name).read_bytes() for name in built}


def test_check_passes_on_the_committed_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("# edited\n")])
def test_check_names_a_file_that_differs(
    facts: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object]
) -> None:
    build(facts)
    changed = facts.parent / "data" / "matrix.json"
    change(changed)

    assert main(["--check", "--facts", str(facts), "--output", str(changed.parent)]) == 1

    err = capsys.readouterr().err
    assert err.startswith(f"out of date: {changed}\nhint: ")
    assert not changed.exists() or changed.read_text(encoding="utf-8") == "# edited\n"


def test_every_fact_has_source_and_date() -> None:
    files = [path for path in FACTS.rglob("*.toml") if path.name != "evidence.toml"]
    rows = [
        (path, row)
        for path in files
        for value in toml.loads(path.read_text(encoding="utf-8")).values()
        for row in (value if isinstance(value, list) else [value])
    ]
    assert len(rows) > 800
    assert [path for path, row in rows if "checked" not in row] == []
    assert [path for path, row in rows if not row.get("source") and not row.get("sha256_source")] == []


def test_release_with_new_tag_is_one_file(facts: Path) -> None:
    (facts / "torch" / "99.0.0.toml").write_text(RELEASE + CUDA, encoding="utf-8")

    matrix = built_matrix(facts)

    assert matrix.torches[-1] == Version("99.0.0")
    assert str(matrix.tags[-1]) == "cu990"
    assert len(matrix.builds) == len(load_matrix().builds) + 2
    assert matrix.checked == "2099-01-14"


def test_select_chooses_the_new_tag_if_the_driver_supports_it(facts: Path) -> None:
    (facts / "torch" / "99.0.0.toml").write_text(RELEASE + CUDA, encoding="utf-8")
    matrix = built_matrix(facts)

    new = select(machine("9.0", driver="9900.10"), Request(), matrix).build
    old = select(machine("9.0", driver="595.45.04"), Request(), matrix).build

    assert (str(new.torch), str(new.tag), str(new.torchvision)) == ("99.0.0", "cu990", "0.30.0")
    assert old.tag in MATRIX.tags


def test_release_changes_requirements_from_its_version_on(facts: Path) -> None:
    (facts / "torch" / "99.0.0.toml").write_text(RELEASE + CUDA, encoding="utf-8")
    build(facts)

    before, after = _current_requirements(data_folder()), _current_requirements(facts.parent / "data")

    assert before.pop("setuptools")
    assert after == {**before, "typing_extensions": "typing_extensions >=4.99"}


def test_cuda_version_is_one_file(facts: Path) -> None:
    (facts / "cuda" / "99.0.toml").write_text(CUDA, encoding="utf-8")

    matrix = built_matrix(facts)

    minimum = matrix.direct_minimum(Version("99.0"))
    assert minimum is not None
    assert minimum.linux == Version("9900.10")
    data = facts.parent / "data"
    changed = {p.name for p in data.iterdir() if p.read_bytes() != (data_folder() / p.name).read_bytes()}
    assert changed == {"matrix.json", "nvidia-drivers.json"}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            'torch = "99.0.0"',
            'torch = "99.0.1"',
            "toml is invalid at `release.torch`: expected `99.0.0`, found `99.0.1`",
        ),
        (
            'glibc = "2.28"',
            "glibc = 2.28",
            "at `wheels[0].glibc`: expected a version such as `12.4`, as a string, found `2.28`",
        ),
        ('glibc = "2.28"', 'glib = "2.28"', "at `wheels[0]`: expected one of the fields checked, evidence, glibc, "),
        ("checked = 2099-01-14", "", "at `release.checked`: expected a value, found nothing"),
        ('"cu990"]', '"cuda990"]', "at `wheels[0].tags[1]`: expected `cpu` or a tag such as `cu118`, found `cuda990`"),
        ('"cpu", "cu990"', '"cu990", "cu990"', "`[[wheels]]` has torch 99.0.0, cu990, linux-64 twice"),
        ('tag = "cu990"', 'tag = "cu132"', "no file in torch/ has `[[kernels]]` for torch 99.0, cu990, linux-64"),
        ('["linux-64"]', '["linux-64", "win-64"]', "`[[kernels]]` for torch 99.0, cu990, win-64, but no `[[wheels]]`"),
        ('"release-matrix"', '"hearsay"', "evidence.toml has no `hearsay`; it has `compatibility-table`, "),
        ('["setuptools"]', '["setuptool"]', "torch/99.0.0.toml drops `setuptool`, which no earlier release requires"),
        ('cuda = "99.0"\nlinux', 'cuda = "99.1"\nlinux', "has a `[[toolkit]]` for CUDA 99.0 (`cu990`)"),
        ("major = 99", "major = 98", "has a `[[family]]` for CUDA 99 (`cu990`)"),
        ('cuda = "99.0"\nlinux', 'cuda = "13.0"\nlinux', "`[[toolkit]]` has 13.0 twice"),
        ("[release]", "[release", "99.0.0.toml is invalid: expected TOML, found "),
    ],
)
def test_invalid_fact_fails_with_file_and_key(
    facts: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, fault: str
) -> None:
    text = RELEASE + CUDA
    assert old in text
    (facts / "torch" / "99.0.0.toml").write_text(text.replace(old, new, 1), encoding="utf-8")

    assert build(facts) == 1

    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert fault in err
    assert list((facts.parent / "data").iterdir()) == []
