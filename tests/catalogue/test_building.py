"""How the catalogue is built: from recorded packages alone, and only from those that are fully known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from envforge.catalogue import PLACEHOLDER
from envforge.cuda import CPU
from envforge.lock.download import Downloads
from envforge.lockfile import LockedPackage
from envforge.matrix import load_matrix
from envforge.resources import lockfiles_root
from tools.catalogue.build import Builder, write
from tools.catalogue.records import CondaRecords, Record, RecordError
from tools.catalogue.requirements import Requires
from tools.catalogue.select_target import Target, plan, read_targets
from tools.catalogue.torch_index import CHANNEL, FolderServer, mirrors_to, write_torch_index
from tools.catalogue.wheels import Facts, UnknownFactError, Wheel

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

needs_records = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded packages of ../shared/data are not here")

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
        metadata = downloads.metadata(torch).decode()
        missing = downloads.page("https://download.pytorch.org/whl/cu126", "numpy")
        downloads.close()
    assert (torch.url, torch.sha256, torch.requires_python) == (TORCH.url, TORCH.sha256, ">=3.10")
    assert (triton.url, triton.sha256) == (TRITON.url, TRITON.sha256)
    assert metadata == TORCH.metadata
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


@pytest.mark.parametrize("changes", [{"sha256": "c" * 64}, {"md5": "c" * 32}, {"md5": None}, {"url": f"{CHANNEL}/x"}])
def test_conda_package_that_is_not_the_recorded_one_is_refused(changes: dict[str, str | None]) -> None:
    known = Record(sha256="a" * 64, md5="b" * 32, size=1, date=None)
    records = CondaRecords({f"{CHANNEL}/noarch/tqdm-4.0-0.conda": known})
    assert records.of(conda_package()) == known
    with pytest.raises(RecordError):
        records.of(conda_package(**changes))


def test_record_without_a_hash_is_refused() -> None:
    records = CondaRecords({f"{CHANNEL}/noarch/tqdm-4.0-0.conda": Record(sha256="", md5="b" * 32, size=1, date=None)})
    with pytest.raises(RecordError, match="no sha256 or md5 is recorded"):
        records.of(conda_package())


@pytest.mark.parametrize(("torch", "macos"), [("2.11.0", "11.0"), ("2.12.0", "14.0")])
def test_lock_for_apple_computers_states_the_macos_that_its_wheels_ask_for(torch: str, macos: str) -> None:
    target = Target(template="image-classification", tag=CPU, platform="osx-arm64", torch=Version(torch), why="")
    texts = plan(target, load_matrix(), ROOT / "templates").texts
    assert f'__osx: "{macos}"' in texts.virtual_packages


@needs_records
def test_build_with_a_wheel_of_unknown_hash_is_refused() -> None:
    facts = Facts.read(SHARED / "pytorch")
    with pytest.raises(UnknownFactError, match=r"torch 2\.14\.1\+cu126 for cp312 on linux-64"):
        facts.wheels("2.14.1+cu126", "0.29.1+cu126", "cp312", "linux-64")


@needs_records
def test_build_whose_record_has_no_hash_is_refused() -> None:
    facts = Facts.read(SHARED / "pytorch")
    fitting = ("cp312", "-manylinux_2_28_x86_64.whl")
    rows = [r for r in facts.recorded if r["sha256"] is None and r["python"] == fitting[0] and r["package"] == "torch"]
    row = next(r for r in rows if r["file"].endswith(fitting[1]))
    with pytest.raises(UnknownFactError, match="no sha256 and address are known of torch"):
        facts.wheels(row["version"], "0.0.0", "cp312", "linux-64")


@needs_records
def test_recorded_hash_that_two_places_state_is_the_same_in_both() -> None:
    facts = Facts.read(SHARED / "pytorch")
    recorded = {row["url"]: row["sha256"] for row in facts.recorded if isinstance(row["sha256"], str)}
    stated = [row for row in (*facts.stated["wheel"], *facts.cu118) if row["url"] in recorded]
    assert stated
    assert [row["url"] for row in stated if recorded[row["url"]] != row["sha256"]] == []


@needs_records
@pytest.mark.slow
def test_solving_again_gives_the_stored_bytes(tmp_path: Path) -> None:
    """The two ends: the lock that README's first command takes, and the newest, with the most wheels."""
    builder = Builder(ROOT, SHARED)
    facts = Facts.read(SHARED / "pytorch")
    records = CondaRecords.read(SHARED / "conda-forge", ("linux-64",))
    targets = [t for t in read_targets() if str(t.tag) in {"cu118", "cu130"}]
    builts = [builder.one(plan(t, builder.matrix, ROOT / "templates"), facts, records) for t in targets]
    write(builts, tmp_path)
    for built in builts:
        assert (tmp_path / built.name).read_bytes() == (lockfiles_root() / built.name).read_bytes()


def test_writing_replaces_the_locks_of_a_template_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "image-classification").mkdir()
    (tmp_path / "image-classification" / "old.conda-lock.yml").touch()
    (tmp_path / "README.md").write_text("kept", encoding="utf-8")
    from tools.catalogue.build import Built

    write([Built("image-classification/new.conda-lock.yml", "text\n", {}, {"u": ("a", "b", "c")})], tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "PROVENANCE.json",
        "README.md",
        "index.json",
        "new.conda-lock.yml",
    ]


def test_without_the_recorded_packages_the_builder_says_so_and_writes_nothing(tmp_path: Path) -> None:
    alone = tmp_path / "checkout"
    alone.mkdir()
    shutil.copytree(ROOT / "tools", alone / "tools")
    done = subprocess.run(
        [sys.executable, "-m", "tools.build_catalogue"], cwd=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"`{tmp_path / 'shared' / 'data'}` does not exist" in done.stderr
    assert not (alone / "lockfiles").exists()
