"""Test reading a catalogue: valid entries, and errors for invalid ones."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.catalogue.index import PLACEHOLDER, CatalogueError, fill, find_entry, list_entries, verified_text
from envforge.lock.python_index import PythonIndex

INDEX = PythonIndex(
    simple_url="https://index.example/simple", source="a test", files_url="https://index.example/files/"
)
PATH = "7b/6e/0e07/cuda_bindings-12.9.10-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"


def package(name: str, url: str, manager: str = "pip") -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0",
        "manager": manager,
        "platform": "linux-64",
        "dependencies": {},
        "url": url,
        "hash": {"md5": "a" * 32, "sha256": "b" * 64},
        "category": "main",
        "optional": False,
    }


LOCK = yaml.safe_dump(
    {
        "version": 1,
        "metadata": {
            "content_hash": {"linux-64": "c" * 64},
            "channels": [{"url": "conda-forge", "used_env_vars": []}],
            "platforms": ["linux-64"],
            "sources": ["environment.yml"],
        },
        "package": [
            package("zlib", "https://conda.anaconda.org/conda-forge/linux-64/zlib-1.0-0.conda", "conda"),
            package("torch", "https://download.pytorch.org/whl/cu126/torch-1.0%2Bcu126-py3-none-any.whl"),
            package("cuda-bindings", PLACEHOLDER + PATH),
        ],
    }
)

ENTRY: dict[str, Any] = {
    "template": "image-classification",
    "variant": "cu126",
    "platforms": ["linux-64"],
    "file": "image-classification/cu126-linux-64.conda-lock.yml",
    "sha256": hashlib.sha256(LOCK.encode()).hexdigest(),
    "input_sha256": "1" * 64,
    "date": "2026-08-11",
    "selection": {
        "torch": "2.14.0",
        "torchvision": "0.29.0",
        "tag": "cu126",
        "python": "3.12",
        "index_url": "https://download.pytorch.org/whl/cu126",
    },
    "requirements": {
        "driver_direct": "560.28.03",
        "driver_minor_compatible": "525.60.13",
        "compute_capabilities": ["5.0", "9.0"],
        "ptx": [],
        "glibc": "2.28",
        "macos": None,
        "download_bytes": 10,
        "files": 3,
        "files_sized": 2,
        "words": "NVIDIA driver 560.28.03 or newer",
    },
}


def catalogue(root: Path, *rows: Any, lock: str = LOCK) -> Path:
    document = {"schema_version": 1, "entries": list(rows) or [ENTRY]}
    (root / "index.json").write_text(json.dumps(document), encoding="utf-8")
    path = root / ENTRY["file"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(lock, encoding="utf-8")
    return root


def changed(path: str, value: Any) -> dict[str, Any]:
    row = copy.deepcopy(ENTRY)
    *parents, last = path.split(".")
    target = row
    for name in parents:
        target = target[name]
    target[last] = value
    return row


def test_entry_is_found_by_the_hash_of_its_inputs_alone(tmp_path: Path) -> None:
    entry = find_entry(catalogue(tmp_path), "1" * 64)
    assert entry is not None
    assert entry.date == dt.date(2026, 8, 11)
    assert entry.selection.torch == Version("2.14.0")
    assert entry.selection.tag == WheelTag.parse("cu126")
    assert entry.requirements.compute_capabilities == (ComputeCapability(5, 0), ComputeCapability(9, 0))
    assert entry.file == PurePosixPath(ENTRY["file"])
    assert find_entry(tmp_path, "2" * 64) is None


def test_registry_addresses_are_filled_and_nothing_else_changes(tmp_path: Path) -> None:
    entry = find_entry(catalogue(tmp_path), "1" * 64)
    assert entry is not None
    said: list[str] = []
    text = fill(verified_text(entry), str(entry.path), INDEX, said.append)
    assert text == LOCK.replace(PLACEHOLDER, "https://index.example/files/")
    assert text != LOCK
    assert said == ["1 file from the package index https://index.example/simple (a test); URLs from its known layout"]


def test_lock_without_registry_files_is_given_as_it_is(tmp_path: Path) -> None:
    lock = LOCK.replace(PLACEHOLDER, "https://download.pytorch.org/whl/")
    said: list[str] = []
    assert fill(lock, "a lock", INDEX, said.append) == lock
    assert said == []


def test_changed_lock_is_refused_with_both_hashes(tmp_path: Path) -> None:
    entry = find_entry(catalogue(tmp_path, lock=LOCK + "\n"), "1" * 64)
    assert entry is not None
    with pytest.raises(CatalogueError) as caught:
        verified_text(entry)
    assert caught.value.code == "catalogue-damaged"
    assert f"expected SHA-256 {ENTRY['sha256']}" in caught.value.message
    assert hashlib.sha256((LOCK + "\n").encode()).hexdigest() in caught.value.message


def test_lock_that_is_not_there_is_named(tmp_path: Path) -> None:
    entry = find_entry(catalogue(tmp_path), "1" * 64)
    assert entry is not None
    entry.path.unlink()
    with pytest.raises(CatalogueError, match=r"cu126-linux-64\.conda-lock\.yml") as caught:
        verified_text(entry)
    assert caught.value.code == "catalogue-unreadable"


def test_missing_index_is_an_error_and_not_an_empty_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"index\.json") as caught:
        find_entry(tmp_path, "1" * 64)
    assert caught.value.code == "catalogue-unreadable"


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("template", None, "entries[0].template"),
        ("platforms", "linux-64", "entries[0].platforms"),
        ("platforms", [7], "entries[0].platforms[0]"),
        ("sha256", "xyz", "entries[0].sha256"),
        ("sha256", "A" * 64, "entries[0].sha256"),
        ("input_sha256", "", "entries[0].input_sha256"),
        ("date", "yesterday", "entries[0].date"),
        ("file", "../outside.yml", "entries[0].file"),
        ("file", "/etc/passwd", "entries[0].file"),
        ("file", "C:\\lock.yml", "entries[0].file"),
        ("selection", [], "entries[0].selection"),
        ("selection.torch", "two", "entries[0].selection.torch"),
        ("selection.python", None, "entries[0].selection.python"),
        ("selection.tag", "rocm6", "entries[0].selection.tag"),
        ("requirements.glibc", 2.28, "entries[0].requirements.glibc"),
        ("requirements.compute_capabilities", ["sm_80"], "entries[0].requirements.compute_capabilities[0]"),
        ("requirements.download_bytes", -1, "entries[0].requirements.download_bytes"),
        ("requirements.words", "", "entries[0].requirements.words"),
    ],
)
def test_fault_of_an_index_is_named_with_its_path(tmp_path: Path, path: str, value: Any, at: str) -> None:
    catalogue(tmp_path, changed(path, value))
    with pytest.raises(CatalogueError) as caught:
        list_entries(tmp_path)
    assert caught.value.code == "catalogue-damaged"
    assert f"`{tmp_path / 'index.json'}` at `{at}`: expected " in caught.value.message
    assert ", found " in caught.value.message


@pytest.mark.parametrize("file", ["", ".", "..", "../x", "a/../../x", "/x", "a\\..\\x", "C:x", "a/\u202ex"])
def test_file_outside_the_catalogue_is_refused(tmp_path: Path, file: str) -> None:
    catalogue(tmp_path, changed("file", file))
    with pytest.raises(CatalogueError, match=r"`entries\[0\].file`: expected a path"):
        list_entries(tmp_path)


def test_index_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"schema_version": 2, "entries": []}', encoding="utf-8")
    with pytest.raises(CatalogueError, match="at `schema_version`: expected `1`, found `2`"):
        list_entries(tmp_path)


def test_two_entries_for_one_question_are_refused(tmp_path: Path) -> None:
    catalogue(tmp_path, ENTRY, ENTRY)
    with pytest.raises(CatalogueError, match=r"entries\[1\]\.input_sha256"):
        list_entries(tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4), st.data())
def test_any_damage_of_an_entry_gives_an_error_with_a_path_or_a_whole_entry(value: Any, data: st.DataObject) -> None:
    import tempfile

    places = [
        *ENTRY,
        *(f"selection.{k}" for k in ENTRY["selection"]),
        *(f"requirements.{k}" for k in ENTRY["requirements"]),
    ]
    place = data.draw(st.sampled_from(places))
    with tempfile.TemporaryDirectory() as name:
        catalogue(Path(name), changed(place, value))
        try:
            (entry,) = list_entries(Path(name))
        except CatalogueError as error:
            assert f"at `entries[0].{place}" in error.message  # noqa: PT017 - not every value is a damage
        else:
            assert entry.template
