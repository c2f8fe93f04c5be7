"""Test ``lock --check``: it lists the differences without solving or downloading."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.check import check_lock
from envforge.lock.condalock import solver_launcher
from envforge.lock.names import NameMapping
from envforge.lock.project import input_sha256
from envforge.lock.request import LockReport
from tests.lock.conftest import World, environment_text
from tests.lock.torchindex import TorchIndex, wheel
from tests.support.loopback import Loopback

Differs = Callable[[str], list[str]]


@pytest.fixture
def differs(locked: tuple[World, LockReport], tmp_path: Path) -> Differs:
    """Check the lock of ``environment_text()`` against another text, without any server."""

    def run(text: str) -> list[str]:
        shutil.copy(locked[0].lockfile, tmp_path / "conda-lock.yml")
        (tmp_path / "environment.yml").write_text(text, encoding="utf-8")
        return [str(one) for one in check_lock(tmp_path / "environment.yml", tmp_path / "conda-lock.yml")]

    return run


def test_an_unchanged_input_agrees_whatever_its_line_ends(differs: Differs) -> None:
    assert differs(environment_text()) == []
    assert differs(environment_text().replace("\n", "\r\n")) == []


def test_a_remark_and_another_order_do_not_matter(differs: Differs) -> None:
    text = environment_text()
    moved = text.replace('  - "numpy"\n', "").replace('  - "python 3.10.*"\n', '  - "numpy"\n  - "python 3.10.*"\n')
    assert differs("# who asked for this?\n" + moved) == []


def test_each_change_is_named(differs: Differs) -> None:
    text = environment_text(conda=("pandas",), pip=("torch==2.7.0+cu118", "torchvision==0.22.1+cu118"))
    assert differs(text.replace('"numpy"', '"numpy <2"')) == [
        "`numpy <2` (conda) is requested on linux-64, but `2.2.6` is locked",
        "`pandas` (conda) is requested on linux-64, but it is not locked",
        "`torch==2.7.0+cu118` (pip) is requested on linux-64, but `2.7.1+cu118` is locked",
    ]


def test_a_bound_that_the_lock_satisfies_is_a_change_all_the_same(differs: Differs) -> None:
    (found,) = differs(environment_text().replace('"numpy"', '"numpy >=2"'))
    assert found == (
        "a version constraint, an index, or a virtual package has changed on linux-64, but the lockfile was solved for "
        "the previous input (virtual packages from the torch version)"
    )


def test_platforms_and_channels_are_compared(differs: Differs) -> None:
    assert differs(environment_text(platforms=("linux-64", "osx-arm64"))) == [
        "platform `osx-arm64` is requested, but it is not locked"
    ]
    found = differs(environment_text().replace("  - conda-forge\n", "  - conda-forge\n  - bioconda\n"))
    assert found[0] == "channels `conda-forge bioconda` are requested, but the lockfile uses `conda-forge`"


@pytest.mark.parametrize("option", ["--without-cuda", ""])
def test_lock_of_conda_lock_itself_is_up_to_date(conda_channel: str, tmp_path: Path, option: str) -> None:
    text = f"channels: [{conda_channel}/conda-forge]\nplatforms: [linux-64, osx-arm64]\ndependencies: [python, sympy]\n"
    environment, lockfile = tmp_path / "environment.yml", tmp_path / "conda-lock.yml"
    environment.write_text(text, encoding="utf-8")
    words = ["lock", "--conda", str(solver_launcher(tmp_path)), "-f", str(environment), "--lockfile", str(lockfile)]
    words += [option] if option else []
    subprocess.run([sys.executable, "-m", "conda_lock", *words], cwd=tmp_path, check=True, capture_output=True)
    assert check_lock(environment, lockfile) == ()
    environment.write_text(text.replace("sympy]", '"sympy >=1"]'), encoding="utf-8")
    found = check_lock(environment, lockfile)
    assert [one.platform for one in found] == ["linux-64", "osx-arm64"]
    assert found[0].found.endswith("(virtual packages from the defaults of conda-lock)")


def test_a_missing_lock_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(environment_text(), encoding="utf-8")
    with pytest.raises(EnvforgeError) as caught:
        check_lock(tmp_path / "environment.yml", tmp_path / "conda-lock.yml")
    assert caught.value.commands == (f"envforge lock -f {tmp_path / 'environment.yml'}",)


def test_input_hash_tells_a_missing_file_from_an_empty_one() -> None:
    assert input_sha256("a", None) != input_sha256("a", "")
    assert input_sha256("a\r\n", "b\r\n") == input_sha256("a\n", "b\n")


def test_lock_of_conda_lock_with_wheels_and_categories_is_up_to_date(conda_channel: str, tmp_path: Path) -> None:
    needs = ["helper>=1", 'only-linux; sys_platform == "linux"', 'only-fast; extra == "fast"']
    wheels = [wheel("wanted", "1.2", requires=needs, extras=["fast"]), wheel("wanted", "1.0", requires=needs)]
    wheels += [wheel(name, "1.0") for name in ("helper", "only-linux", "only-mac", "only-fast")]
    pages = TorchIndex()
    pages.add("simple", *wheels)
    with Loopback(pages.answer) as server:
        head = f"channels: [{conda_channel}/conda-forge]\nplatforms: [linux-64, osx-arm64]\n"
        index = f"pip-repositories: ['{server.url}/whl/simple']\nallow-pypi-requests: false\n"
        lines = [
            *("python 3.10.*", "pip", "sympy", "jinja2 >=3,<4", "numpy =2.2", "pillow  # [linux64]"),
            "{pip: ['wanted <2', 'only-mac; sys_platform == \"darwin\"', 'helper ~= 1.0']}",
        ]
        main, dev, lockfile = tmp_path / "environment.yml", tmp_path / "dev.yml", tmp_path / "conda-lock.yml"
        main.write_text(f"{head}{index}dependencies:\n" + "".join(f"- {line}\n" for line in lines), encoding="utf-8")
        more = ["filelock", "fsspec", "{pip: ['wanted[fast] >=1.1']}"]
        dev.write_text(f"{head}{index}category: dev\ndependencies:\n" + "".join(f"- {line}\n" for line in more))
        NameMapping.bundled().write(tmp_path / "mapping.json")
        words = ["lock", "--conda", str(solver_launcher(tmp_path)), "-f", str(main), "-f", str(dev)]
        words += ["--lockfile", str(lockfile), "--pypi_to_conda_lookup_file", str(tmp_path / "mapping.json")]
        environment = {**os.environ, "POETRY_CACHE_DIR": str(tmp_path / "cache"), "POETRY_KEYRING_ENABLED": "false"}
        done = subprocess.run(
            [sys.executable, "-m", "conda_lock", *words],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = check_lock(main, lockfile, others=(dev,))
        assert [str(one) for one in found] == []
