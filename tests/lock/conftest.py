"""Fixtures for locking: a conda channel of real (empty) packages, and a PyTorch-style index of real wheels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from envforge.base.urls import Mirrors
from envforge.lock.lockfile import LockedPackage
from envforge.lock.request import LockReport
from tests.lock.support import LockFolder, at_work
from tests.lock.torchindex import PUBLIC, TorchIndex, wheel
from tests.support.channel import Channel, Package
from tests.support.loopback import Loopback, Request, Response

CONDA_LIBRARIES = {
    "filelock": "3.20.0",
    "fsspec": "2026.7.0",
    "jinja2": "3.1.6",
    "mpmath": "1.3.0",
    "networkx": "3.4.2",
    "numpy": "2.2.6",
    "pillow": "12.0.0",
    "pip": "26.0",
    "setuptools": "80.9.0",
    "sympy": "1.14.0",
    "typing_extensions": "4.15.0",
}
ON_LINUX = '; platform_system == "Linux" and platform_machine == "x86_64"'
TORCH_NEEDS = [
    "filelock",
    "typing-extensions>=4.10.0",
    'setuptools; python_version >= "3.12"',
    "sympy>=1.13.3",
    "networkx",
    "jinja2",
    "fsspec",
    'optree>=0.13.0; extra == "optree"',
]
CUDA_NEEDS = [f"nvidia-cublas-cu11==11.11.3.6{ON_LINUX}", f"triton==3.3.1{ON_LINUX}"]
CUDA_TAG = "cp310-cp310-manylinux_2_28_x86_64"

TORCH = wheel("torch", "2.7.1+cu118", tag=CUDA_TAG, requires=[*TORCH_NEEDS, *CUDA_NEEDS])
OLDER_TORCH = wheel("torch", "2.7.0+cu118", tag=CUDA_TAG, requires=TORCH_NEEDS)
WINDOWS_TORCH = wheel("torch", "2.7.1+cu118", tag="cp310-cp310-win_amd64", requires=["intel-openmp"])
VISION = wheel("torchvision", "0.22.1+cu118", tag=CUDA_TAG, requires=["numpy", "torch==2.7.1", "pillow!=8.3.*,>=5.3.0"])
CUBLAS = wheel("nvidia-cublas-cu11", "11.11.3.6", tag="py3-none-manylinux1_x86_64")
TRITON = wheel("triton", "3.3.1", tag="cp310-cp310-manylinux_2_27_x86_64")
MAC_TORCH = wheel("torch", "2.7.1", tag="cp310-none-macosx_11_0_arm64", requires=TORCH_NEEDS)


def torch_index() -> TorchIndex:
    """The family of torch 2.7.1+cu118 as the real index has it, and the macOS build under ``cpu``."""
    index = TorchIndex()
    index.add("cu118", WINDOWS_TORCH, TORCH, OLDER_TORCH, VISION, CUBLAS, TRITON)
    index.add("cpu", MAC_TORCH)
    return index


def environment_text(
    *,
    conda: tuple[str, ...] = (),
    pip: tuple[str, ...] = ("torch==2.7.1+cu118", "torchvision==0.22.1+cu118"),
    platforms: tuple[str, ...] = ("linux-64",),
    indexes: tuple[str, ...] = (f"{PUBLIC}/cu118",),
    without: tuple[str, ...] = (),
) -> str:
    libraries = [f'"{name}"' for name in CONDA_LIBRARIES if name not in (*without, "mpmath")]
    lines = ["channels:", "  - conda-forge", "platforms:", *(f"  - {platform}" for platform in platforms)]
    lines += ["dependencies:", '  - "python 3.10.*"', *(f"  - {one}" for one in (*libraries, *conda)), "  - pip:"]
    lines += [f"      - {one}" if "#" in one else f'      - "{one}"' for one in pip]
    lines += ["pip-repositories:", *(f'  - "{url}"' for url in indexes)]
    return "\n".join(lines) + "\n"


@dataclass(kw_only=True)
class World(LockFolder):
    """One project folder with its servers. ``index`` may be changed until ``lock`` is called."""

    index: TorchIndex = field(default_factory=torch_index)

    @property
    def mirrors(self) -> Mirrors:
        return Mirrors.parse(
            [
                f"https://download.pytorch.org={self.url}",
                f"https://download-r2.pytorch.org={self.url}",
                f"https://conda.anaconda.org={self.conda_url}",
            ]
        )

    def answer(self, request: Request) -> Response | None:
        return self.index.answer(request)

    def package(self, name: str, platform: str = "linux-64") -> LockedPackage:
        return next(p for p in self.read().for_platform(platform) if p.name == name)

    def left_behind(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture(scope="session")
def conda_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("conda")
    channel = Channel(folder / "conda-forge")
    for subdir in ("linux-64", "osx-arm64"):
        channel.add(Package(name="python", version="3.10.18", build="h0_0_cpython", subdir=subdir))
    for name, version in CONDA_LIBRARIES.items():
        depends = ("mpmath >=0.19", "python >=3.9") if name == "sympy" else ("python >=3.9",)
        channel.add(
            Package(name=name, version=version, build="pyhd8ed1ab_0", subdir="noarch", noarch="python", depends=depends)
        )
    channel.add(Package(name="pytorch", version="2.5.1", build="cpu_py310_0", subdir="linux-64", depends=("python",)))
    channel.add(Package(name="modern", version="1.0", subdir="linux-64", depends=("__glibc >=2.34",)))
    channel.index()
    with Loopback(folder) as server:
        yield server.url


def new_world(folder: Path, conda_url: str) -> AbstractContextManager[World]:
    return at_work(World(folder=folder / "project", conda_url=conda_url), environment_text())


@pytest.fixture
def world(tmp_path: Path, conda_channel: str) -> Iterator[World]:
    """A project that is not locked yet."""
    with new_world(tmp_path / "world", conda_channel) as one:
        yield one


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, conda_channel: str) -> Iterator[tuple[World, LockReport]]:
    """A project that was locked once, for tests that only read."""
    with new_world(tmp_path_factory.mktemp("locked") / "world", conda_channel) as one:
        yield one, one.lock()
