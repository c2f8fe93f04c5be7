"""Test that an update locks a project's variants again, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from envforge.lock.lockfile import read_lockfile
from tests.lock.change.conftest import Project, new_project, package
from tests.lock.torchindex import wheel
from tests.project.update.support import FILES, MANIFEST, World
from tests.support.channel import Channel
from tests.support.loopback import Loopback

LINUX = "cp310-cp310-manylinux_2_28_x86_64"
CONDA = (
    "filelock",
    "fsspec",
    "jinja2",
    "networkx",
    "pillow",
    "pip",
    "setuptools",
    "typing_extensions",
    "numpy",
    "tqdm",
)
WITH_TQDM = MANIFEST.replace("conda: [numpy]", "conda: [numpy, tqdm]")
LOCKS = ("conda-lock.yml", "lockfiles/cpu/conda-lock.yml", "lockfiles/cu118/conda-lock.yml")


@pytest.fixture(scope="module")
def conda_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("channel")
    channel = Channel(folder / "conda-forge")
    channel.add(package("python", "3.10.1", build="h0_0_cpython"), package("sympy", "1.13.3"))
    channel.add(*(package(name, "9.0") for name in CONDA))
    channel.index()
    with Loopback(folder) as server:
        yield server.url


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, conda_url: str) -> dict[str, bytes]:
    """The files of a project of a template, with its own lock and those of two variants."""
    with _started(tmp_path_factory.mktemp("made"), conda_url) as one:
        words = ["new", "./demo", one.folder.name, "--machine", "a10g", "--cuda", "11.8"]
        new = [sys.executable, "-m", "envforge", *words]
        done = subprocess.run(
            new, cwd=one.folder.parent, env=one.variables(), check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        locked = one.run("lock", "--variant", "cpu", "--variant", "cu118")
        assert locked.returncode == 0, locked.stderr
        return one.files()


@pytest.fixture
def project(tmp_path: Path, conda_url: str, made: dict[str, bytes]) -> Iterator[Project]:
    with _started(tmp_path, conda_url) as one:
        for name, content in made.items():
            path = one.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield one


@contextmanager
def _started(root: Path, conda_url: str) -> Iterator[Project]:
    """An empty folder, a template beside it, and the servers."""
    with new_project(root / "world", conda_url) as one:
        one.environment.unlink()
        for tag in ("cpu", "cu118"):
            one.torch.add(tag, wheel("torch", f"2.7.1+{tag}", tag=LINUX))
        _template(one).write_template(FILES)
        yield one


def _template(project: Project) -> World:
    return World(project.folder.parent)


def _names(project: Project, lock: str) -> set[str]:
    return {package.name for package in read_lockfile(project.folder / lock).packages}


def test_an_update_makes_every_lock_of_the_project_anew(project: Project) -> None:
    _template(project).write_template(FILES, version=2, manifest=WITH_TQDM)
    before = project.files()

    dry = project.run("update", "--dry-run")
    assert [f"  lock      {name} would be updated" in dry.stdout for name in LOCKS] == [True] * 3, dry.stdout
    assert before == project.files()
    done = project.run("update")

    assert done.returncode == 0, done.stderr
    assert [f"  lock      {name}\n" in done.stdout for name in LOCKS] == [True] * 3, done.stdout
    assert [name for name in LOCKS if "tqdm" in _names(project, name)] == list(LOCKS)
    checked = project.run("lock", "--check", "--variant", "cpu", "--variant", "cu118")
    assert checked.returncode == 0, checked.stdout
    assert project.run("update").stdout.endswith("up to date, nothing changed\n")


def test_nothing_changes_where_one_variant_cannot_be_locked(project: Project) -> None:
    _template(project).write_template(FILES, version=2, manifest=WITH_TQDM)
    project.torch.pages.pop(("cpu", "torch"))
    before = project.files()

    failed = project.run("update")

    assert failed.returncode != 0
    assert "error: variant cpu: " in failed.stderr
    assert "to update the project without its lockfile, run `envforge update --no-lock`" in failed.stderr
    assert before == project.files()


def test_locks_that_stay_behind_are_named_with_their_commands(project: Project) -> None:
    _template(project).write_template(FILES, version=2, manifest=WITH_TQDM)
    locks = {name: project.files()[name] for name in LOCKS}

    done = project.run("update", "--no-lock")

    assert done.returncode == 0
    assert locks == {name: project.files()[name] for name in LOCKS}
    for name, command in zip(LOCKS, ("", " --variant cpu", " --variant cu118"), strict=True):
        assert (
            f"warning: {name} belongs to the previous environment; to update it, run `envforge lock{command}`\n"
            in done.stderr
        )


def test_each_pylock_that_stays_behind_is_named_with_its_command(project: Project) -> None:
    _template(project).write_template(FILES, version=2, manifest=WITH_TQDM)
    for name in ("pylock.toml", "lockfiles/cpu/pylock.cpu.toml"):
        (project.folder / name).write_text('created-by = "envforge"\n[tool.envforge]\n', encoding="utf-8")
    (project.folder / "lockfiles/cu118/pylock.cu118.toml").write_text('created-by = "uv"\n', encoding="utf-8")

    assert "pylock" not in project.run("update", "--dry-run").stderr
    without = project.run("update", "--no-lock").stderr
    for pylock, lock, words in (
        ("pylock.toml", LOCKS[0], "--pylock"),
        ("lockfiles/cpu/pylock.cpu.toml", LOCKS[1], "--variant cpu --pylock"),
    ):
        both = f"{lock} and {pylock} belong to the previous environment; to update them, run `envforge lock {words}`"
        assert f"warning: {both}\n" in without
    assert "cu118.toml" not in without
    _template(project).write_template(FILES, version=3, manifest=WITH_TQDM.replace("tqdm", "pillow"))
    done = project.run("update").stderr
    one = "pylock.toml belongs to the previous environment; to update it, run `envforge lock --pylock`"
    assert f"warning: {one}\n" in done


def test_a_variant_of_the_users_own_making_is_left_alone(project: Project) -> None:
    own = project.folder / "lockfiles/cpu/environment.yml"
    own.write_text("# mine\n" + own.read_text(encoding="utf-8"), encoding="utf-8")
    before = project.files()
    _template(project).write_template(FILES, version=2, manifest=WITH_TQDM)

    assert project.run("update").returncode == 0

    after = project.files()
    assert [before[name] == after[name] for name in LOCKS] == [False, True, False]
