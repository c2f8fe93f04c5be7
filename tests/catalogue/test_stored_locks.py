"""Test every built-in lockfile from a clean checkout: its contents, and the input that it was solved from."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from packaging.version import Version

from envforge.base.data_files import lockfiles_root, templates_root
from envforge.catalogue.index import PLACEHOLDER, CatalogueEntry, fill, find_entry, list_entries, verified_text
from envforge.lock.lockfile import Lockfile, read_lockfile
from envforge.lock.names import NameMapping
from envforge.lock.python_index import PythonIndex
from envforge.machine.values import driver_text
from envforge.project.templates import list_templates
from envforge.pytorch.matrix import load_matrix
from tools.catalogue.select_target import plan, read_targets

ROOT = lockfiles_root()
STORED = list_entries(ROOT)
HOSTS = {"conda.anaconda.org", "download.pytorch.org", urlsplit(PLACEHOLDER).netloc}
WANTED = {
    "cpu": {"linux-64", "osx-arm64", "win-64"},
    "cu118": {"linux-64"},
    "cu126": {"linux-64"},
    "cu128": {"linux-64", "linux-aarch64"},
    "cu130": {"linux-64"},
}
MAPPING = NameMapping.bundled()


def each_entry() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", STORED, ids=lambda e: f"{e.template}-{e.variant}-{'-'.join(e.platforms)}")


@functools.cache
def lock_of(entry: CatalogueEntry) -> Lockfile:
    return read_lockfile(entry.path)


@pytest.mark.parametrize("template", list_templates(templates_root()))
def test_catalogue_answers_every_template_in_every_variant(template: str) -> None:
    held: dict[str, set[str]] = {}
    for target in read_targets():
        asked = plan(msgspec.structs.replace(target, template=template), load_matrix(), templates_root()).texts
        entry = find_entry(ROOT, asked.sha256)
        assert entry is not None
        held.setdefault(entry.variant, set()).update(entry.platforms)
    assert held == WANTED


def test_catalogue_holds_no_file_that_its_index_does_not_name() -> None:
    named = {ROOT / "README.md", ROOT / "index.json", ROOT / "PROVENANCE.json", *(e.path for e in STORED)}
    assert {path for path in ROOT.rglob("*") if path.is_file()} == named


@each_entry()
def test_file_has_the_sha256_of_the_index(entry: CatalogueEntry) -> None:
    assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256


def test_each_lock_answers_the_question_that_the_current_code_asks() -> None:
    """Red where a template, the matrix or the writing of environment.yml changed: python -m tools.build_catalogue."""
    matrix = load_matrix()
    asked = {
        (target.template, target.name): plan(target, matrix, templates_root()).texts.sha256 for target in read_targets()
    }
    stored = {(entry.template, f"{entry.variant}-{entry.platforms[0]}"): entry.input_sha256 for entry in STORED}
    assert stored == asked


def test_cuda_11_8_without_another_word_is_answered_at_once() -> None:
    for target in (target for target in read_targets() if str(target.tag) == "cu118"):
        assert target.torch is None
        entry = find_entry(ROOT, plan(target, load_matrix(), templates_root()).texts.sha256)
        assert entry is not None
        assert (entry.selection.torch, entry.selection.python) == (Version("2.7.1"), Version("3.10"))


@each_entry()
def test_lock_is_for_the_platforms_of_its_entry(entry: CatalogueEntry) -> None:
    lock = lock_of(entry)
    assert lock.platforms == entry.platforms
    assert {package.platform for package in lock.packages} == set(entry.platforms)


@each_entry()
def test_every_package_has_a_sha256_and_every_conda_package_an_md5(entry: CatalogueEntry) -> None:
    assert [p.name for p in lock_of(entry).packages if p.sha256 is None] == []
    assert [p.name for p in lock_of(entry).packages if p.manager == "conda" and p.md5 is None] == []


@each_entry()
def test_addresses_are_those_of_the_public_channel_the_torch_index_or_the_registry(entry: CatalogueEntry) -> None:
    for package in lock_of(entry).packages:
        parts = urlsplit(package.url)
        assert parts.scheme == "https"
        assert parts.netloc in HOSTS
        assert (package.manager == "conda") == (parts.netloc == "conda.anaconda.org")


@each_entry()
def test_no_other_host_and_no_path_of_a_machine_is_in_the_text(entry: CatalogueEntry) -> None:
    text = entry.path.read_text(encoding="utf-8")
    hosts = set(re.findall(r"[a-z]+://([^/\s]+)", text))
    assert hosts <= HOSTS | {"github.com"}
    assert re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/|localhost|127\.0\.0\.1", text) is None


@each_entry()
def test_torch_and_torchvision_are_the_selected_build_from_the_torch_index(entry: CatalogueEntry) -> None:
    selection = entry.selection
    wanted = (selection.torch, selection.tag, entry.platforms[0])
    (build,) = (each for each in load_matrix().builds if (each.torch, each.tag, each.platform) == wanted)
    family = {"torch": selection.torch, "torchvision": selection.torchvision}
    if entry.template != "image-classification":
        del family["torchvision"]
    for name, version in family.items():
        (package,) = (p for p in lock_of(entry).packages if p.name == name)
        assert package.manager == "pip"
        assert version is not None
        assert package.version == build.pin(version)
        assert package.url.startswith(f"{selection.index_url}/{name}-{version}")


@each_entry()
def test_python_is_the_selected_one(entry: CatalogueEntry) -> None:
    (python,) = (p for p in lock_of(entry).packages if p.name == "python")
    assert python.version.startswith(f"{entry.selection.python}.")


@each_entry()
def test_no_dependency_is_missing(entry: CatalogueEntry) -> None:
    packages = lock_of(entry).packages
    conda = {p.name for p in packages if p.manager == "conda"}
    provided = {MAPPING.to_python(name) for name in conda} | {p.name for p in packages if p.manager == "pip"}
    for package in packages:
        wanted = {name for name, _ in package.dependencies if not name.startswith("__")}
        assert wanted - (conda if package.manager == "conda" else provided) == set(), package.name


@each_entry()
def test_requirements_are_those_of_the_matrix(entry: CatalogueEntry) -> None:
    matrix, tag, stated = load_matrix(), entry.selection.tag, entry.requirements
    (build,) = (
        b for b in matrix.builds if (b.torch, b.tag, b.platform) == (entry.selection.torch, tag, entry.platforms[0])
    )
    assert stated.compute_capabilities == build.capabilities
    assert stated.ptx == build.ptx
    assert stated.glibc == build.glibc
    assert (stated.macos is not None) == entry.platforms[0].startswith("osx-")
    direct = matrix.direct_minimum(tag.cuda) if tag.cuda else None
    family = matrix.family_minimum(tag.cuda) if tag.cuda else None
    assert stated.driver_direct == (direct.linux if direct else None)
    assert stated.driver_minor_compatible == (family.linux if family else None)
    if direct is not None:
        assert driver_text(direct.linux) in stated.words


@each_entry()
def test_size_counts_every_file_of_the_lock(entry: CatalogueEntry) -> None:
    stated = entry.requirements
    assert stated.files == len({package.url for package in lock_of(entry).packages})
    assert 0 < stated.files_sized <= stated.files
    assert stated.download_bytes > 50_000_000


@each_entry()
def test_filled_lock_has_no_placeholder_left(entry: CatalogueEntry) -> None:
    index = PythonIndex(simple_url="https://i.example/simple", source="a test", files_url="https://i.example/files/")
    assert "invalid" not in fill(verified_text(entry), str(entry.path), index)


def test_provenance_names_the_source_of_every_file_once() -> None:
    document = json.loads((ROOT / "PROVENANCE.json").read_text(encoding="utf-8"))
    named = [url for group in document["groups"] for url in group["files"]]
    assert sorted(named) == sorted({p.url for entry in STORED for p in lock_of(entry).packages})
    for group in document["groups"]:
        assert all(len(group[key]) > 20 for key in ("address", "sha256", "requirements"))


def test_readme_says_which_torch_each_lock_holds_and_why_it_is_not_the_newest() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for target in read_targets():
        wanted = (target.template, str(target.tag), target.platform)
        (entry,) = (e for e in STORED if (e.template, e.variant, e.platforms[0]) == wanted)
        assert f"| `{entry.path.name}` | {entry.selection.torch} |" in text
        assert target.why in text


def test_paths_are_short_enough_for_every_file_system() -> None:
    assert max(len(str(entry.file)) for entry in STORED) < 80
    assert not any(path.is_symlink() for path in Path(ROOT).rglob("*"))
