"""Build the small channel for the solver's tests, with the packages of the recorded calls of conda-lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.channel import Channel, Package

VIRTUAL = {"__archspec": ("1", "x86_64"), "__glibc": ("2.28", "0"), "__linux": ("5.10", "0"), "__unix": ("0", "0")}


def package(name: str, version: str, *depends: str, **fields: Any) -> Package:
    """A package of linux-64 without files, unless ``fields`` say otherwise."""
    return Package(**{"name": name, "version": version, "depends": depends, "subdir": "linux-64", **fields})


def noarch(name: str, version: str, *depends: str, **fields: Any) -> Package:
    """A package for every platform."""
    return package(name, version, *depends, **{"noarch": "generic", "subdir": "noarch", **fields})


def tiny_channel(folder: Path) -> Path:
    """Write and index the channel in ``folder``."""
    channel = Channel(folder)
    channel.add(package("liba", "2.0"), extension=".tar.bz2")
    channel.add(
        package("liba", "1.5", build="h1_1", build_number=1),
        package("libb", "1.0", "liba >=1.0,<2.0a0"),
        package("libb", "1.1", "liba >=1.0,<2.0a0"),
        package("python", "3.12.1", "tinydata", build="h0_0_cpython"),
        package("python", "3.13.0", "tinydata", build="h0_0_cpython"),
        package("newpython", "1.0"),
        package("newpython", "2.0", "python >=3.13"),
        package("cudaapp", "1.0", "__cuda >=12", build="cuda_1", build_number=1),
        package("cudaapp", "1.0", build="cpu_0"),
        package("libc-user", "1.0", "__glibc >=2.17,<3.0.a0"),
        package("libc-user", "2.0", "__glibc >=2.35"),
        noarch("pyhello", "1.0.0", "python >=3.8", build="pyhd8ed1ab_0"),
        noarch("pyhello", "1.1.0", "python >=3.8", build="pyhd8ed1ab_0"),
        noarch("tinydata", "2024b"),
    )
    for name, version, depends in (("liba", "1.5", ()), ("libb", "1.1", ("liba",)), ("python", "3.12.1", ())):
        channel.add(package(name, version, *depends, subdir="osx-arm64"))
    channel.index()
    return folder


def virtual_channel(folder: Path, platform: str = "linux-64", **facts: str) -> str:
    """A folder of virtual packages as conda-lock writes it; without ``facts``, of a Linux computer without a GPU."""
    stated = {f"__{name}": (version, "0") for name, version in facts.items()}
    stated = {**(VIRTUAL if platform == "linux-64" else {}), **stated}
    for subdir in ("linux-64", "osx-arm64", "win-64", "noarch"):
        packages = {
            f"{name}-{version}-{build}.tar.bz2": {
                "build": build, "build_number": 0, "build_string": "", "depends": [], "name": name, "noarch": "",
                "package_type": "virtual_system", "subdir": subdir, "timestamp": 1577854800000, "version": version,
            }
            for name, (version, build) in stated.items() if subdir == platform
        }  # fmt: skip
        (folder / subdir).mkdir(parents=True)
        text = json.dumps({"info": {"subdir": subdir}, "packages": packages})
        (folder / subdir / "repodata.json").write_text(text)
    return folder.as_uri()
