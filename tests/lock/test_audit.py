"""Test each rule that a new lockfile must meet before it is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from envforge.lock.invariants import Expectations, audit
from envforge.lock.lockfile import LockedPackage, Lockfile
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
    dependencies=(("sympy", ">=1.13.3"), ("optree", ">=0.13.0")),
)
EXPECTED = Expectations(
    platforms=("linux-64",),
    pip=(("linux-64", (Requirement("torch==2.7.1+cu118"),)),),
    digests=((TORCH_URL, "22" * 32),),
    torch_urls=frozenset({TORCH_URL}),
    family=frozenset({"torch"}),
    optional=(("torch", frozenset({"optree"})),),
    asked=("https://download.pytorch.org/whl/cu118", "file:///srv/channel"),
)


def problems(*packages: LockedPackage, expected: Expectations = EXPECTED) -> list[str]:
    lock = Lockfile(platforms=("linux-64",), channels=("conda-forge",), content_hash=(), packages=packages)
    return [problem.code for problem in audit(lock, expected, MAPPING)]


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
    assert problems(PYTHON, SYMPY) == ["missing"]
    assert problems(PYTHON, SYMPY, TORCH, pytorch) == ["two-owners"]
    assert problems(PYTHON, SYMPY, SYMPY, TORCH) == ["twice"]
    other = replace(EXPECTED, platforms=("linux-64", "osx-arm64"))
    assert problems(PYTHON, SYMPY, TORCH, expected=other) == ["platform-missing"]
