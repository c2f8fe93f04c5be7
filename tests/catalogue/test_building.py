"""Test that the catalogue is built only from `data/facts`, and only from files that are fully known."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
import zstandard
from packaging.version import Version

from envforge.base.data_files import lockfiles_root
from envforge.base.terms import CPU
from envforge.catalogue.index import PLACEHOLDER
from envforge.lock.lockfile import LockedPackage, read_lockfile
from envforge.lock.pages import Downloads
from envforge.pytorch.matrix import load_matrix
from tools.build_catalogue import main
from tools.catalogue.build import Builder, Built, write
from tools.catalogue.read_registry import write_metadata, write_registry
from tools.catalogue.records import Channel, CondaRecords, RecordError
from tools.catalogue.requirements import Requires
from tools.catalogue.select_target import Target, plan, read_targets
from tools.catalogue.torch_index import CHANNEL, FolderServer, mirrors_to, write_torch_index
from tools.catalogue.wheels import UnknownFactError, Wheel, WheelFacts
from tools.facts.read import FACTS, FactError
from tools.facts.rows import CondaRecord

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

RECORDS = CondaRecords.read(FACTS / "conda-forge")

TORCH = Wheel(
    package="torch",
    version="2.14.0+cu126",
    url="https://download.pytorch.org/whl/cu126/torch-2.14.0%2Bcu126-cp312-cp312-manylinux_2_28_x86_64.whl",
    sha256="e9" * 32,
    requires=Requires(lines=("filelock", 'pyyaml; extra == "yaml"'), python=">=3.10", source="a test"),
    address_source="a test",
    sha256_source="a test",
)
TRITON = Wheel(
    package="triton",
    version="3.8.0",
    url=f"{PLACEHOLDER}c1/09/b701/triton-3.8.0-cp312-cp312-manylinux_2_28_x86_64.whl",
    sha256="e8" * 32,
    requires=Requires(lines=(), python="", source="a test"),
    address_source="a test",
    sha256_source="a test",
)


def test_loopback_index_gives_public_addresses_hashes_and_metadata(tmp_path: Path) -> None:
    write_torch_index(tmp_path, "cu126", [TORCH, TRITON])
    with FolderServer(tmp_path) as server:
        downloads = Downloads(mirrors_to(server.url), lambda step: None)
        (torch,) = downloads.page("https://download.pytorch.org/whl/cu126", "torch").files
        (triton,) = downloads.page("https://download.pytorch.org/whl/cu126", "triton").files
        metadata = downloads.metadata(torch).as_string().rstrip()
        missing = downloads.page("https://download.pytorch.org/whl/cu126", "numpy")
        downloads.close()
    assert (torch.url, torch.sha256, torch.requires_python) == (TORCH.url, TORCH.sha256, ">=3.10")
    assert (triton.url, triton.sha256) == (TRITON.url, TRITON.sha256)
    assert metadata == TORCH.metadata.rstrip()
    assert metadata.splitlines()[3:] == [
        "Requires-Python: >=3.10",
        "Provides-Extra: yaml",
        "Requires-Dist: filelock",
        'Requires-Dist: pyyaml; extra == "yaml"',
    ]
    assert missing.status == 404


def conda_package(**changes: str | None) -> LockedPackage:
    values: dict[str, str | None] = {"url": f"{CHANNEL}/noarch/tqdm-4.0-0.conda", "sha256": "a" * 64, "md5": "b" * 32}
    values |= changes
    return LockedPackage(
        name="tqdm",
        version="4.0",
        manager="conda",
        platform="linux-64",
        url=str(values["url"]),
        sha256=values["sha256"],
        md5=values["md5"],
        category="main",
        optional=False,
        dependencies=(),
    )


RECORD = CondaRecord(
    file="tqdm-4.0-0.conda",
    name="tqdm",
    version="4.0",
    build="0",
    build_number=0,
    depends=(),
    md5="b" * 32,
    sha256="a" * 64,
    source="a test",
    checked=dt.date(2026, 11, 22),
)


@pytest.mark.parametrize("changes", [{"sha256": "c" * 64}, {"md5": "c" * 32}, {"md5": None}, {"url": f"{CHANNEL}/x"}])
def test_conda_package_that_is_not_the_recorded_one_is_refused(changes: dict[str, str | None]) -> None:
    records = CondaRecords({f"{CHANNEL}/noarch/tqdm-4.0-0.conda": RECORD})
    assert records.of(conda_package()) == RECORD
    with pytest.raises(RecordError):
        records.of(conda_package(**changes))


def channel(folder: Path, **changes: str | None) -> Channel:
    names = ("name", "version", "build", "build_number", "depends", "md5", "sha256")
    row = {name: changes.get(name, getattr(RECORD, name)) for name in names if changes.get(name, "") is not None}
    (folder / "noarch").mkdir(parents=True)
    text = json.dumps({"packages.conda": {RECORD.file: row}})
    (folder / "noarch" / "repodata.json.zst").write_bytes(zstandard.compress(text.encode()))
    return Channel(folder=folder, source="a mirror", checked=dt.date(2027, 1, 14))


def test_record_of_a_channel_without_a_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FactError, match="`sha256`: expected 64 lowercase hexadecimal digits"):
        channel(tmp_path, sha256=None).records_of([conda_package()], CondaRecords({}))


def test_known_record_keeps_its_source_if_the_hash_agrees(tmp_path: Path) -> None:
    url = conda_package().url
    known = CondaRecords({url: RECORD})
    same = channel(tmp_path / "same").records_of([conda_package()], known)
    other = channel(tmp_path / "other", sha256="d" * 64).records_of([conda_package()], known)
    assert same.by_url[url] == RECORD
    assert (other.by_url[url].sha256, other.by_url[url].source) == ("d" * 64, "a mirror")
    assert other.by_url[url].checked == dt.date(2027, 1, 14)


def test_files_that_tools_write_keep_their_bytes(tmp_path: Path) -> None:
    wheels = WheelFacts.read()
    RECORDS.write(tmp_path / "conda-forge")
    write_registry(tmp_path, wheels.registry)
    write_metadata(tmp_path, wheels.metadata)
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*.toml")}
    stored = {path.name: path.read_bytes() for path in FACTS.rglob("*.toml") if path.name in written}
    assert len(written) == 7
    assert written == stored


def test_facts_have_exactly_the_locked_conda_packages() -> None:
    locked = [p for path in lockfiles_root().rglob("*.yml") for p in read_lockfile(path).packages]
    conda = [package for package in locked if package.manager == "conda"]
    assert {RECORDS.of(package).file for package in conda} == {record.file for record in RECORDS.by_url.values()}
    assert {package.url for package in conda} == set(RECORDS.by_url)


@pytest.mark.parametrize(("torch", "macos"), [("2.11.0", "11.0"), ("2.12.0", "14.0")])
def test_lock_for_apple_computers_states_the_macos_that_its_wheels_ask_for(torch: str, macos: str) -> None:
    target = Target(template="image-classification", tag=CPU, platform="osx-arm64", torch=Version(torch), why="")
    texts = plan(target, load_matrix(), ROOT / "templates").texts
    assert f'__osx: "{macos}"' in texts.virtual_packages


def test_build_with_a_wheel_of_unknown_hash_is_refused() -> None:
    with pytest.raises(UnknownFactError, match=r"torch 2\.14\.1\+cu126 for cp312 on linux-64"):
        WheelFacts.read().wheels("2.14.1+cu126", "0.29.1+cu126", "cp312", "linux-64")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded wheels of ../shared/data are not here")
def test_hashes_agree_with_the_recorded_wheels() -> None:
    document = json.loads((SHARED / "pytorch" / "torch_wheels.json").read_text(encoding="utf-8"))
    recorded = {row["url"]: row["sha256"] for row in document["wheels"] if isinstance(row["sha256"], str)}
    stated = [row for row in WheelFacts.read().stated if row.url in recorded]
    assert stated
    assert [row.url for row in stated if recorded[row.url] != row.sha256] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu-osx-arm64", "cu118-linux-64", "cu130-linux-64"])
def test_solving_again_gives_the_stored_bytes(name: str, tmp_path: Path) -> None:
    """A platform without CUDA, the lockfile of README's first command, and the newest, which has the most wheels."""
    builder = Builder(root=ROOT)
    target = next(t for t in read_targets() if (t.template, t.name) == ("image-classification", name))
    built = builder.one(plan(target, builder.matrix, ROOT / "templates"))
    write([built], tmp_path)
    assert (tmp_path / built.name).read_bytes() == (lockfiles_root() / built.name).read_bytes()
    stored = json.loads((lockfiles_root() / "index.json").read_text(encoding="utf-8"))["entries"]
    assert built.entry == next(entry for entry in stored if entry["file"] == built.name)


def test_writing_replaces_the_locks_of_a_template_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "image-classification").mkdir()
    (tmp_path / "image-classification" / "old.conda-lock.yml").touch()
    (tmp_path / "README.md").write_text("kept", encoding="utf-8")
    write([Built("image-classification/new.conda-lock.yml", "text\n", {}, {"u": ("a", "b", "c")})], tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "PROVENANCE.json",
        "README.md",
        "index.json",
        "new.conda-lock.yml",
    ]


@pytest.mark.parametrize("missing", ["conda-forge", "wheels"])
def test_build_fails_without_the_facts(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = shutil.copytree(FACTS, tmp_path / "facts")
    shutil.rmtree(facts / missing)
    assert main(["--check", "--facts", str(facts)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {facts / missing}")


def test_channel_needs_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--conda-forge", "mirror"])
    assert "--conda-forge and --source need each other" in capsys.readouterr().err
