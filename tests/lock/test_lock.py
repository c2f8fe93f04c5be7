"""Test the guarantees for a lockfile, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import subprocess
import sys

from envforge.lock.condalock import solver_launcher
from envforge.lock.names import NameMapping
from envforge.lock.request import LockReport, LockStep
from tests.lock.conftest import CUBLAS, MAC_TORCH, TORCH, TRITON, VISION, World, environment_text
from tests.lock.torchindex import PUBLIC, TorchIndex

Locked = tuple[World, LockReport]


def test_torch_family_has_its_local_version_public_address_and_real_hash(locked: Locked) -> None:
    world, report = locked
    family = {p.name: (p.version, p.url, p.sha256) for p in world.read().for_platform("linux-64", "pip")}
    assert family == {
        "torch": ("2.7.1+cu118", f"{PUBLIC}/cu118/{TORCH.file_name.replace('+', '%2B')}", TORCH.sha256),
        "torchvision": ("0.22.1+cu118", f"{PUBLIC}/cu118/{VISION.file_name.replace('+', '%2B')}", VISION.sha256),
        "nvidia-cublas-cu11": ("11.11.3.6", f"{PUBLIC}/cu118/{CUBLAS.file_name}", CUBLAS.sha256),
        "triton": ("3.3.1", f"{PUBLIC}/cu118/{TRITON.file_name}", TRITON.sha256),
    }
    assert [(one.platform, one.conda, one.pip, one.torch) for one in report.platforms] == [
        ("linux-64", 12, 4, "2.7.1+cu118")
    ]


def test_what_conda_provides_stays_with_conda_and_has_its_public_address(locked: Locked) -> None:
    world, _ = locked
    sympy = world.package("sympy")
    assert (sympy.manager, sympy.version) == ("conda", "1.14.0")
    assert sympy.url == "https://conda.anaconda.org/conda-forge/noarch/sympy-1.14.0-pyhd8ed1ab_0.conda"
    assert all(package.sha256 for package in world.read().packages)
    assert "127.0.0.1" not in world.lockfile.read_text(encoding="utf-8")


def test_no_wheel_is_fetched_where_the_index_states_hashes_and_metadata(locked: Locked) -> None:
    world, report = locked
    assert world.server is not None
    assert [r for r in world.server.requests if r.path.endswith(".whl") and r.method != "HEAD"] == []
    assert report.hashed == ()


def test_virtual_packages_are_derived_from_the_torch_pin_and_never_cuda_11_4(locked: Locked) -> None:
    _, report = locked
    assert dict(report.lock.custom_metadata)["created_by"] == "envforge"
    assert report.virtual_packages_source == "the torch version"
    assert report.virtual_packages == ("linux-64: __archspec=1 x86_64 __cuda=11.8 __glibc=2.28 __linux=5.10 __unix=0",)


def test_requirements_that_count_elsewhere_are_not_in_the_lock(locked: Locked) -> None:
    world, _ = locked
    needs = dict(world.package("torch").dependencies)
    assert "setuptools" not in needs
    assert needs["sympy"] == ">=1.13.3"


def test_locking_again_gives_the_same_bytes_and_leaves_nothing_beside_them(locked: Locked) -> None:
    world, _ = locked
    first = world.lockfile.read_bytes()
    world.lock(upgrade=True)
    assert world.lockfile.read_bytes() == first
    assert world.left_behind() == ["conda-lock.yml", "environment.yml"]


def test_two_platforms_get_their_own_torch_by_selector(world: World) -> None:
    world.write(
        environment_text(
            platforms=("linux-64", "osx-arm64"),
            pip=('"torch==2.7.1+cu118"  # [linux64]', '"torch==2.7.1"  # [osx]'),
            indexes=(f"{PUBLIC}/cu118", f"{PUBLIC}/cpu"),
        )
    )
    report = world.lock()
    assert world.package("torch", "linux-64").version == "2.7.1+cu118"
    mac = world.package("torch", "osx-arm64")
    assert (mac.version, mac.url) == ("2.7.1", f"{PUBLIC}/cpu/{MAC_TORCH.file_name}")
    assert [p.name for p in world.read().for_platform("osx-arm64", "pip")] == ["torch"]
    assert world.read().platforms == ("linux-64", "osx-arm64")
    assert [("__cuda" in words) for words in report.virtual_packages] == [True, False]


def test_gaps_of_the_index_are_filled_and_moved_addresses_recorded_as_linked(world: World) -> None:
    """No sha256 on torch, no metadata on torchvision, triton linked at download-r2, as seen on the real index."""
    world.index = TorchIndex()
    world.index.add("cu118", TORCH, sha256=None)
    world.index.add("cu118", VISION, has_metadata=False)
    world.index.add("cu118", CUBLAS)
    moved = f"https://download-r2.pytorch.org/whl/cu118/{TRITON.file_name}"
    world.index.add("cu118", TRITON, href=moved)
    steps: list[LockStep] = []
    report = world.lock(steps.append)
    assert world.package("torch").sha256 == TORCH.sha256
    assert report.hashed == (f"{PUBLIC}/cu118/{TORCH.file_name.replace('+', '%2B')}",)
    counted = [step for step in steps if step.done_bytes is not None][-1]
    assert (counted.done_bytes, counted.total_bytes) == (len(TORCH.data), len(TORCH.data))
    assert world.package("torchvision").sha256 == VISION.sha256
    assert world.package("triton").url == moved
    assert world.server is not None
    whole = [
        r for r in world.server.requests if r.path.endswith(".whl") and "range" not in r.headers and r.method != "HEAD"
    ]
    assert [r.path.rpartition("/")[2] for r in whole] == [TORCH.file_name.replace("+", "%2B")]
    assert world.lock(upgrade=True).hashed == ()
    assert world.package("torch").sha256 == TORCH.sha256


def test_stated_virtual_packages_decide(world: World) -> None:
    world.write(environment_text(conda=("modern",)))
    stated = "subdirs:\n  linux-64:\n    packages:\n      __glibc: '2.35'\n      __unix: '0'\n      __linux: '5.10'\n"
    (world.folder / "virtual-packages.yml").write_text(stated, encoding="utf-8")
    report = world.lock()
    assert report.virtual_packages == ("linux-64: __glibc=2.35 __unix=0 __linux=5.10",)
    assert world.package("modern").dependencies == (("__glibc", ">=2.34"),)
    assert "Spec hash already locked for ['linux-64']" in _conda_lock_by_hand(world)


def _conda_lock_by_hand(world: World) -> str:
    """What conda-lock says of our lock when people run it themselves, beside the same files."""
    tools = world.folder.parent / "tools"
    tools.mkdir()
    NameMapping.bundled().write(tools / "mapping.json")
    words = ["--conda", str(solver_launcher(tools)), "--pypi_to_conda_lookup_file", str(tools / "mapping.json")]
    command = [sys.executable, "-m", "conda_lock", "lock", "-f", "environment.yml", "--check-input-hash", *words]
    return subprocess.run(command, cwd=world.folder, capture_output=True, text=True, check=False).stderr
