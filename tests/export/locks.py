"""Create lockfiles for these tests, as values and as files."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from envforge.lock.lockfile import LockedPackage, Lockfile

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "lockfiles"
REAL = ROOT.parent / "shared" / "data" / "lockfiles"
CHANNEL = "https://conda.anaconda.org/conda-forge"
TORCH_CU118 = "https://download.pytorch.org/whl/cu118/torch-2.7.1%2Bcu118-cp310-cp310-manylinux_2_28_x86_64.whl"
TORCH_CU126 = "https://download.pytorch.org/whl/cu126/torch-2.7.1%2Bcu126-cp310-cp310-manylinux_2_28_x86_64.whl"


def package(name: str, version: str, url: str, **fields: object) -> LockedPackage:
    base = LockedPackage(
        name=name,
        version=version,
        manager="pip" if url.endswith((".whl", ".tar.gz")) else "conda",
        platform="linux-64",
        url=url,
        sha256="ab" * 32,
        md5=None,
        category="main",
        optional=False,
        dependencies=(),
    )
    return replace(base, **fields)


def conda(name: str, version: str, build: str, **fields: object) -> LockedPackage:
    subdir = "noarch" if build.startswith("pyh") else str(fields.get("platform", "linux-64"))
    return package(name, version, f"{CHANNEL}/{subdir}/{name}-{version}-{build}.conda", **fields)


def lock(*packages: LockedPackage, platforms: tuple[str, ...] = ("linux-64",)) -> Lockfile:
    return Lockfile(platforms=platforms, channels=("conda-forge",), content_hash=(), packages=packages)


PYTHON = conda("python", "3.10.20", "h267e890_1_cpython", dependencies=(("__glibc", ">=2.17,<3.0.a0"),))
NUMPY = conda("numpy", "2.2.6", "py310hefbff90_0", dependencies=(("python", ">=3.10,<3.11.0a0"),))
PIP = conda("pip", "26.0", "pyh8b19718_0", dependencies=(("python", ">=3.10"),))
JINJA2 = conda("jinja2", "3.1.6", "pyhd8ed1ab_0", dependencies=(("python", ">=3.9"),))
CU118 = package("torch", "2.7.1+cu118", TORCH_CU118)
CU126 = package("torch", "2.7.1+cu126", TORCH_CU126)
