"""Test each rule that a new lockfile must meet before it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.lock.check import Expectations, audit
from envforge.lock.environment import parse_environment
from envforge.lock.inputs import Inputs
from envforge.lock.lockfile import INPUT_SHA256, LockedPackage, Lockfile
from envforge.lock.names import NameMapping

MAPPING = NameMapping((("torch", "pytorch"),))
TORCH_URL = "https://download.pytorch.org/whl/cu118/torch-2.7.1%2Bcu118-cp310-cp310-manylinux_2_28_x86_64.whl"
PYTHON = LockedPackage(
    name="python",
    version="3.10.18",
    manager="conda",
    platform="linux-64",
    url="https://conda.anaconda.org/conda-forge/linux-64/python-3.10.18-h0_0_cpython.conda",
    sha256="11" * 32,
    md5=None,
    category="main",
    optional=False,
    dependencies=(("__glibc", ">=2.17"),),
)
SYMPY = replace(
    PYTHON,
    name="sympy",
    version="1.14.0",
    url="https://conda.anaconda.org/conda-forge/noarch/sympy-1.14.0-pyh_0.conda",
    dependencies=(("python", ">=3.9"),),
)
TORCH = replace(
    PYTHON,
    name="torch",
    version="2.7.1+cu118",
    manager="pip",
    url=TORCH_URL,
    sha256="22" * 32,
    dependencies=(("sympy", ">=1.13.3"),),
)
ENVIRONMENT = """\
channels: [conda-forge]
platforms: [linux-64]
dependencies: [python, sympy, {pip: [torch==2.7.1+cu118]}]
"""
EXPECTED = Expectations(
    digests={TORCH_URL: "22" * 32},
    torch_urls=frozenset({TORCH_URL}),
    family=frozenset({"torch"}),
    asked=("https://download.pytorch.org/whl/cu118", "file:///srv/channel"),
)


def inputs(text: str = ENVIRONMENT) -> Inputs:
    path = Path("environment.yml")
    environment = parse_environment(text, path)
    return Inputs(
        files=(environment,), platforms=environment.platforms, virtual_packages_path=path, virtual_packages=None
    )


def problems(*packages: LockedPackage, text: str = ENVIRONMENT) -> list[str]:
    lock = Lockfile(
        platforms=("linux-64",),
        channels=("conda-forge",),
        content_hash=(),
        packages=packages,
        custom_metadata=((INPUT_SHA256, "44" * 32),),
    )
    return [problem.code for problem in audit(lock, inputs(text), EXPECTED, MAPPING)]


def test_a_sound_lock_has_no_problem() -> None:
    assert problems(PYTHON, SYMPY, TORCH) == []
    assert problems(PYTHON, replace(SYMPY, url="file:///srv/channel/noarch/sympy-1.14.0-pyh_0.conda"), TORCH) == []


@pytest.mark.parametrize(
    ("package", "code"),
    [
        (replace(TORCH, sha256=None), "no-sha256"),
        (replace(TORCH, sha256="00" * 32), "no-sha256"),
        (replace(TORCH, sha256="33" * 32), "hash-mismatch"),
        (replace(TORCH, version="2.7.1"), "other-version"),
        (replace(TORCH, url="https://registry.example/torch-2.7.1.whl"), "torch-index"),
        (replace(TORCH, url="http://127.0.0.1:4000/torch.whl"), "address"),
        (replace(TORCH, url=TORCH_URL.replace("://", "://user:secret@")), "credentials"),
        (replace(TORCH, dependencies=(("networkx", "*"),)), "dependency-missing"),
    ],
)
def test_each_fault_of_a_wheel_is_found(package: LockedPackage, code: str) -> None:
    assert code in problems(PYTHON, SYMPY, package)


@pytest.mark.parametrize(
    ("package", "code"),
    [
        (replace(SYMPY, sha256=None), "no-sha256"),
        (replace(SYMPY, url="file:///home/me/channel/noarch/sympy.conda"), "address"),
        (replace(SYMPY, url="https://conda.example/t/ab-0123456789/noarch/sympy.conda"), "credentials"),
        (replace(SYMPY, dependencies=(("python", ""), ("mpmath", ">=0.19"))), "dependency-missing"),
    ],
)
def test_each_fault_of_a_conda_package_is_found(package: LockedPackage, code: str) -> None:
    assert problems(PYTHON, package, TORCH) == [code]


def test_a_folder_named_t_is_not_a_token() -> None:
    board = replace(SYMPY, url="https://files.example/packages/py3/t/tensorboard/tensorboard-2.20.0-py3-none-any.whl")
    assert problems(PYTHON, board, TORCH) == []
    deep = replace(SYMPY, url="https://files.example/conda/t/ab-01234567-89ab-cdef/noarch/sympy-1.14.0-pyh_0.conda")
    assert problems(PYTHON, deep, TORCH) == ["credentials"]


def test_a_missing_package_platform_or_a_second_owner_is_found() -> None:
    pytorch = replace(SYMPY, name="pytorch", version="2.5.1")
    assert problems(PYTHON, SYMPY) == ["not-locked"]
    assert problems(PYTHON, SYMPY, TORCH, pytorch) == ["two-owners"]
    assert problems(PYTHON, SYMPY, SYMPY, TORCH) == ["twice"]
    assert problems(PYTHON, SYMPY, TORCH, text=ENVIRONMENT.replace("[linux-64]", "[linux-64, osx-arm64]")) == [
        "platform-missing",
        *["not-locked"] * 3,
    ]


def test_package_that_nothing_explains_is_found() -> None:
    stray = replace(SYMPY, name="stray", dependencies=(("also-stray", ""),))
    also = replace(SYMPY, name="also-stray")
    assert problems(PYTHON, SYMPY, TORCH, stray, also) == ["not-requested", "not-requested"]
    assert problems(PYTHON, SYMPY, TORCH, stray, also, text=ENVIRONMENT.replace("sympy", "sympy, stray")) == []


@pytest.mark.parametrize(
    ("entry", "is_met"),
    [
        ("sympy 1.14.0", True),
        ("sympy 1.13", False),
        ("sympy =1.14", True),
        ("sympy >=1 pyh*", True),
        ("sympy * py312*", False),
        ("conda-forge::sympy", True),
        ("bioconda::sympy", False),
        ("sympy[version='>=2']", False),
    ],
)
def test_request_is_compared_with_version_build_and_channel(entry: str, is_met: bool) -> None:
    found = problems(PYTHON, SYMPY, TORCH, text=ENVIRONMENT.replace("sympy", f'"{entry}"'))
    assert found == ([] if is_met else ["other-version"])
