"""Files that envforge reads on conda-forge and PyPI, and those in the catalogue, exist and are unchanged."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest
import requests
import yaml

from envforge.base.data_files import lockfiles_root
from envforge.catalogue.index import PLACEHOLDER, CatalogueEntry, list_entries
from envforge.lock.lockfile import LockedPackage, parse_lockfile
from envforge.lock.names import NameMapping
from envforge.lock.pages import Downloads, IndexFile
from envforge.lock.python_index import SimplePages, configured_index, locate

CHANNEL = "https://conda.anaconda.org/conda-forge"
# conda-lock reads this file if it isn't given another
PUBLIC_MAPPING = (
    "https://raw.githubusercontent.com/regro/cf-graph-countyfair/master/mappings/pypi/grayskull_pypi_mapping.yaml"
)
STORED = list_entries(lockfiles_root())


def lock_of(entry: CatalogueEntry) -> tuple[LockedPackage, ...]:
    """Return the packages of a stored lockfile."""
    return parse_lockfile(entry.path.read_text(encoding="utf-8"), str(entry.path)).packages


@pytest.mark.parametrize("entry", STORED, ids=lambda entry: str(entry.name))
def test_each_file_of_the_catalogue_is_still_there(entry: CatalogueEntry, session: requests.Session) -> None:
    index, pages = configured_index(os.environ, Path.home(), Path(sys.prefix)), SimplePages()
    gone = []
    for package in lock_of(entry):
        url = package.url
        if url.startswith(PLACEHOLDER):
            url = locate(url.removeprefix(PLACEHOLDER), package.sha256 or "", index, pages).url
        answer = session.head(url, allow_redirects=True, timeout=60)
        if not answer.ok:
            gone.append(f"{answer.status_code} {package.url}")
    assert gone == []


def test_redirect_of_the_channel_leads_to_the_locked_bytes(session: requests.Session, downloads: Downloads) -> None:
    package = next(p for p in lock_of(STORED[0]) if p.name == "tqdm" and p.manager == "conda")
    assert session.head(package.url, allow_redirects=True, timeout=60).history, "the channel answers without a redirect"
    file = IndexFile(file_name=package.file_name, url=package.url)
    assert downloads.sha256(file) == package.sha256


@pytest.mark.parametrize("name", ["tqdm", "jinja2", "filelock"])
def test_published_conda_package_has_the_locked_hashes(name: str, session: requests.Session) -> None:
    package = next(p for p in lock_of(STORED[0]) if p.name == name and p.manager == "conda")
    body = session.get(package.url, timeout=60).content
    assert hashlib.sha256(body).hexdigest() == package.sha256
    assert hashlib.md5(body, usedforsecurity=False).hexdigest() == package.md5


@pytest.mark.parametrize("subdir", ["linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "noarch"])
def test_channel_serves_repodata_as_the_solver_reads_it(subdir: str, session: requests.Session) -> None:
    for name in ("repodata.json.zst", "repodata_shards.msgpack.zst"):
        answer = session.head(f"{CHANNEL}/{subdir}/{name}", allow_redirects=True, timeout=60)
        assert answer.ok, f"{subdir}/{name}: {answer.status_code}"
        assert answer.headers.get("ETag") or answer.headers.get("Last-Modified")


def test_unknown_subdir_is_not_found(session: requests.Session) -> None:
    assert session.head(f"{CHANNEL}/no-such-subdir/repodata.json.zst", timeout=60).status_code in {403, 404}


def test_bundled_names_agree_with_the_public_mapping(session: requests.Session) -> None:
    answer = session.get(PUBLIC_MAPPING, timeout=120)
    answer.raise_for_status()
    public = {row["pypi_name"]: row["conda_name"] for row in yaml.safe_load(answer.text).values()}
    bundled = NameMapping.bundled()
    wrong = {
        python: (bundled.to_conda(python), conda)
        for python in ("annoy", "blosc", "brotli", "build", "torch", "opencv-python", "msgpack", "tables")
        if (conda := public.get(python)) is not None and bundled.to_conda(python) != conda
    }
    assert wrong == {}


def test_pypi_serves_metadata_beside_its_wheels(downloads: Downloads) -> None:
    index = configured_index(os.environ, Path.home(), Path(sys.prefix)).simple_url
    wheels = [file for file in downloads.page(index, "filelock").files if file.file_name.endswith(".whl")]
    newest = wheels[-1]
    assert newest.sha256 is not None
    assert downloads.metadata(newest)["Name"] == "filelock"


def test_published_wheel_has_the_sha256_that_pypi_states(downloads: Downloads) -> None:
    index = configured_index(os.environ, Path.home(), Path(sys.prefix)).simple_url
    wheel = [file for file in downloads.page(index, "filelock").files if file.file_name.endswith(".whl")][-1]
    assert downloads.sha256(wheel) == wheel.sha256


def test_files_of_the_package_index_in_the_catalogue_are_located() -> None:
    index, pages = configured_index(os.environ, Path.home(), Path(sys.prefix)), SimplePages()
    packages = {
        package.url: package.sha256
        for entry in STORED
        for package in lock_of(entry)
        if package.url.startswith(PLACEHOLDER)
    }
    assert packages
    for url, sha256 in packages.items():
        located = locate(url.removeprefix(PLACEHOLDER), sha256 or "", index, pages)
        assert located.url.startswith("http")
        assert "unchecked" not in located.how, located.how
