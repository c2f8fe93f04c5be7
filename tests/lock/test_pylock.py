"""`lock --pylock`: all Python packages of a project in one pylock.toml, for uv and pip."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.base import toml
from envforge.cli import main
from envforge.cli.lock import pylock_words
from envforge.errors import EnvforgeError
from envforge.lock.compile import PylockReport, check_pylock, is_pylock_current, lock_pylock
from envforge.lock.plan import make_plan
from envforge.lock.project import is_pylock
from envforge.lock.pylock import lockfile_of, parse_pylock, pylock_of
from tests.lock.conftest import CONDA_LIBRARIES, World, environment_text, new_world
from tests.lock.torchindex import PUBLIC, wheel

REGISTRY = {**CONDA_LIBRARIES, "typing-extensions": CONDA_LIBRARIES["typing_extensions"], "pillow": "11.3.0"}
REGISTRY = {name: version for name, version in REGISTRY.items() if name != "typing_extensions"}


@contextmanager
def world_with_registry(folder: Path, conda_url: str, text: str | None = None) -> Iterator[World]:
    """A project whose registry has what conda provides, except that its pillow is older."""
    with new_world(folder / "world", conda_url) as one, pytest.MonkeyPatch.context() as patch:
        for name, version in REGISTRY.items():
            needs = ["mpmath>=0.19"] if name == "sympy" else []
            one.index.add("simple", wheel(name, version, requires=needs))
        one.index.add("simple", wheel("numpy", "2.3.0"), wheel("torch", "9.0"))
        patch.setenv("PIP_INDEX_URL", f"{one.url}/whl/simple")
        if text is not None:
            one.write(text)
        yield one


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, conda_channel: str) -> Iterator[tuple[World, PylockReport]]:
    with world_with_registry(tmp_path_factory.mktemp("pylock"), conda_channel) as one:
        one.lock()
        yield one, lock_pylock(one.request())


def packages(world: World) -> dict[str, dict[str, Any]]:
    document = toml.loads((world.folder / "pylock.toml").read_text(encoding="utf-8"))
    return {row["name"]: row for row in document["packages"]}


def test_pylock_contains_packages_of_conda_and_pip(locked: tuple[World, PylockReport]) -> None:
    found = packages(locked[0])
    assert found.keys() == {*REGISTRY, "torch", "torchvision", "triton", "nvidia-cublas-cu11"}
    assert found["numpy"]["version"] == CONDA_LIBRARIES["numpy"]


def test_pylock_has_torch_only_from_the_torch_index(locked: tuple[World, PylockReport]) -> None:
    (file,) = packages(locked[0])["torch"]["wheels"]
    torch = locked[0].package("torch")
    assert (file["url"], file["hashes"]) == (torch.url, {"sha256": torch.sha256})
    assert file["url"].startswith(f"{PUBLIC}/cu118/")


def test_pylock_names_versions_that_the_registry_lacks(locked: tuple[World, PylockReport]) -> None:
    (one,) = locked[1].platforms
    assert one.differences == ("pillow 12.0.0 (conda-lock.yml), 11.3.0 (pylock.toml)",)
    assert one.left_out == ()


def test_pylock_has_a_sha256_for_every_file(locked: tuple[World, PylockReport]) -> None:
    files = [file for row in packages(locked[0]).values() for file in row["wheels"]]
    assert files
    assert all(re.fullmatch("[0-9a-f]{64}", file["hashes"]["sha256"]) for file in files)


def test_pylock_is_read_as_a_lockfile_of_its_platform(locked: tuple[World, PylockReport]) -> None:
    text = (locked[0].folder / "pylock.toml").read_text(encoding="utf-8")
    found = parse_pylock(text, "pylock.toml")
    assert (found.platforms, str(found.python)) == (("linux-64",), "3.10")
    assert {p.name for p in found.packages} == packages(locked[0]).keys()


def test_pylock_is_valid_as_pep_751_has_it(locked: tuple[World, PylockReport]) -> None:
    pep751 = pytest.importorskip("packaging.pylock", reason="packaging 26 reads pylock.toml")
    path = locked[0].folder / "pylock.toml"
    assert pep751.is_valid_pylock_path(path)
    read = pep751.Pylock.from_dict(toml.loads(path.read_text(encoding="utf-8")))
    assert {package.name for package in read.packages} == packages(locked[0]).keys()


@pytest.mark.parametrize(
    ("lockfile", "expected"),
    [
        ("conda-lock.yml", "pylock.toml"),
        ("lockfiles/cu126/conda-lock.yml", "lockfiles/cu126/pylock.cu126.toml"),
        ("lockfiles/my.own/conda-lock.yml", "lockfiles/my.own/pylock.my-own.toml"),
        ("gpu.conda-lock.yml", "pylock.gpu.toml"),
        ("locks/a.b.yml", "locks/pylock.a-b.toml"),
    ],
)
def test_pylock_is_next_to_its_lockfile_under_a_name_of_pep_751(tmp_path: Path, lockfile: str, expected: str) -> None:
    path = tmp_path / lockfile
    pylock = pylock_of(path)
    assert pylock == tmp_path / expected
    assert is_pylock(pylock)
    pylock.parent.mkdir(parents=True, exist_ok=True)
    pylock.write_text(f'[tool.envforge]\nlockfile = "{path.name}"\n', encoding="utf-8")
    assert lockfile_of(pylock) == path


def test_pylock_records_the_variables_of_the_project(tmp_path: Path, conda_channel: str) -> None:
    text = environment_text()
    with world_with_registry(tmp_path, conda_channel, f"{text}variables:\n  MODE: 'a \"b\"'\n") as world:
        world.lock()
        lock_pylock(world.request())
        found = parse_pylock((world.folder / "pylock.toml").read_text(encoding="utf-8"), "pylock.toml")
        assert found.variables == (("MODE", 'a "b"'),)
        world.write(f"{text}variables:\n  MODE: c\n")
        world.lock()
        assert [d.code for d in check_pylock(world.request())] == ["pylock-stale"]


def test_pylock_names_the_categories_that_it_leaves_out(
    tmp_path: Path, conda_channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `install conda-lock.yml` does, it has `main` and `dev`, unless `--category` names others."""
    with world_with_registry(tmp_path, conda_channel, environment_text(pip=(), without=("numpy", "pillow"))) as world:
        monkeypatch.chdir(world.folder)
        head = "channels: [conda-forge]\nplatforms: [linux-64]\n"
        for category, name in (("dev", "numpy"), ("docs", "pillow")):
            text = f"{head}category: {category}\ndependencies: [{name}]\n"
            (world.folder / f"{category}.yml").write_text(text, encoding="utf-8")
        request = world.request(others=(Path("dev.yml"), Path("docs.yml")))
        world.lock(others=request.others)
        report = lock_pylock(request)
        assert report.categories_left_out == ("category `docs` is left out: pillow",)
        assert report.platforms[0].left_out == ()
        assert ("numpy" in packages(world), "pillow" in packages(world)) == (True, False)
        assert check_pylock(request) == ()
        assert "category `docs` is left out: pillow" in pylock_words(lock_pylock(request))
        path = world.folder / "pylock.toml"
        lock = parse_pylock(path.read_text(encoding="utf-8"), "pylock.toml")
        assert len(make_plan(lock, "linux-64", path, categories=("dev",)).wheels) == len(packages(world))
        with pytest.raises(EnvforgeError, match="has no category `docs`; it has `dev`, `main`") as caught:
            make_plan(lock, "linux-64", Path("pylock.toml"), categories=("docs",))
        files = "-f environment.yml -f dev.yml -f docs.yml --pylock"
        chosen = "--category dev --category docs --category main"
        assert caught.value.commands == (f"envforge lock {files} {chosen}",)

        every = replace(request, categories=("main", "dev", "docs"))
        world.lock(others=request.others, categories=every.categories)
        assert lock_pylock(every).categories_left_out == ()
        assert "pillow" in packages(world)
        assert [d.code for d in check_pylock(request)] == ["categories"]
        assert check_pylock(every) == ()


def test_invalid_pylock_of_envforge_is_written_again(tmp_path: Path, conda_channel: str) -> None:
    with world_with_registry(tmp_path, conda_channel) as world:
        world.lock()
        lock_pylock(world.request())
        path = world.folder / "pylock.toml"
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace("==3.10.*", "3.10"), encoding="utf-8")
        assert not lock_pylock(world.request()).is_unchanged
        assert path.read_text(encoding="utf-8") == before


def test_check_pylock_passes_after_the_lock(locked: tuple[World, PylockReport]) -> None:
    world, _ = locked
    assert check_pylock(world.request()) == ()
    assert lock_pylock(world.request()).is_unchanged


def test_check_pylock_finds_a_request_that_it_lacks(locked: tuple[World, PylockReport]) -> None:
    world, _ = locked
    before, path = world.environment.read_text(encoding="utf-8"), world.folder / "pylock.toml"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(text.replace("fsspec", "other"), encoding="utf-8")
        assert [d.code for d in check_pylock(world.request())] == ["not-locked"]
        path.write_text(text, encoding="utf-8")
        world.write(before.replace('"numpy"', '"numpy <2"'))
        assert [str(d) for d in check_pylock(world.request())] == [
            f"`numpy <2` (conda) is requested on linux-64, but `2.2.6` is locked in `{path}`"
        ]
    finally:
        path.write_text(text, encoding="utf-8")
        world.write(before)


def test_check_pylock_finds_another_lockfile(tmp_path: Path, conda_channel: str) -> None:
    with world_with_registry(tmp_path, conda_channel) as world:
        world.lock()
        lock_pylock(world.request())
        world.write(environment_text(pip=("torch==2.7.0+cu118",)))
        world.lock()
        assert [d.code for d in check_pylock(world.request())] == ["pylock-stale"]
        assert not lock_pylock(world.request()).is_unchanged
        assert packages(world)["torch"]["version"] == "2.7.0+cu118"


_DAMAGE: dict[str, Callable[[str], str]] = {
    "emptied": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "without its table": lambda text: text.partition("[tool.envforge]")[0],
    "of another tool": lambda text: text.replace('created-by = "envforge"', 'created-by = "uv"'),
    "without its header": lambda text: text.partition("\n\n")[2].partition("[[packages]]")[0] + "[tool.envforge]\n",
    "another Python": lambda text: text.replace("==3.10.*", "==3.12.*"),
    "fewer environments": lambda text: re.sub(r"environments = .*", "environments = []", text),
    "another variable": lambda text: text.replace('MODE = "fast"', 'MODE = "slow"'),
    "no variables": lambda text: re.sub(r"\[tool.envforge.variables\]\n.*\n", "", text),
    "a dependency less": lambda text: re.sub(
        r'(?s)\[\[packages\]\]\nname = "mpmath".*?(?=\[\[packages\]\]\n)', "", text
    ),
    "another checksum": lambda text: re.sub('(?<=sha256 = ")[0-9a-f]{64}', "0" * 64, text, count=1),
}


def test_damaged_pylock_is_not_up_to_date(
    tmp_path: Path, conda_channel: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"{environment_text()}variables: {{MODE: fast}}\n"
    with world_with_registry(tmp_path, conda_channel, text) as world:
        world.lock()
        lock_pylock(world.request())
        path = world.folder / "pylock.toml"
        whole = path.read_text(encoding="utf-8")
        monkeypatch.chdir(world.folder)
        for name, damage in _DAMAGE.items():
            path.write_text(damage(whole), encoding="utf-8")
            assert damage(whole) != whole, name
            assert main(["lock", "--check"]) == 1, name
            assert "pylock.toml" in "".join(capfd.readouterr()), name
            assert not is_pylock_current(world.request()), name
            if name in {"emptied", "of another tool", "another Python"}:
                assert not lock_pylock(world.request()).is_unchanged
                assert path.read_text(encoding="utf-8") == whole, name


ODD = """lock-version = "1.0"
created-by = "envforge"
requires-python = "==3.12.*"
packages = []
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"envforge"', '"x"\ntool = 5'),
        ("==3.12.*", "==3.\uff11\uff12.*"),
        ("==3.12.*", f"==3.{'9' * 5000}.*"),
        ("packages", "q = 0o" + "7" * 7000 + "\npackages"),
        ("[]\n", '[]\n[tool.envforge]\ncontent_sha256 = "x"\n[' + ".".join("a" * 3000) + "]\n"),
    ],
)
def test_odd_value_of_a_pylock_is_an_error_that_names_it(old: str, new: str) -> None:
    assert parse_pylock(ODD, "my.toml").packages == ()
    with pytest.raises(EnvforgeError, match=r"`my\.toml`"):
        parse_pylock(ODD.replace(old, new), "my.toml")


def test_pylock_of_a_directory_has_the_usual_lockfile(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text('lockfile = ".."\n')
    assert lockfile_of(tmp_path / "pylock.toml") == tmp_path / "conda-lock.yml"


def test_pylock_has_a_marker_where_platforms_differ(tmp_path: Path, conda_channel: str) -> None:
    pip = ("torch==2.7.1+cu118  # [linux-64]", "torch==2.7.1  # [osx-arm64]")
    text = environment_text(pip=pip, platforms=("linux-64", "osx-arm64"), indexes=(f"{PUBLIC}/cu118", f"{PUBLIC}/cpu"))
    with world_with_registry(tmp_path, conda_channel, text) as world:
        world.lock()
        lock_pylock(world.request())
        found = parse_pylock((world.folder / "pylock.toml").read_text(encoding="utf-8"), "pylock.toml")
        versions = {p.platform: p.version for p in found.packages if p.name == "torch"}
        assert versions == {"linux-64": "2.7.1+cu118", "osx-arm64": "2.7.1"}
        assert "triton" not in {p.name for p in found.for_platform("osx-arm64")}
        assert "marker" not in packages(world)["numpy"]


def test_pylock_names_a_package_that_the_registry_lacks(tmp_path: Path, conda_channel: str) -> None:
    with world_with_registry(tmp_path, conda_channel) as world:
        world.index.pages.pop(("simple", "fsspec"))
        world.lock()
        with pytest.raises(EnvforgeError, match=r"`fsspec`: .* returned HTTP 403") as caught:
            lock_pylock(world.request())
        assert caught.value.code == "no-python-solution"
        assert not (world.folder / "pylock.toml").exists()


def test_pylock_of_another_tool_is_kept(tmp_path: Path, conda_channel: str) -> None:
    with world_with_registry(tmp_path, conda_channel) as world:
        world.lock()
        path = world.folder / "pylock.toml"
        path.write_text('lock-version = "1.0"\ncreated-by = "uv"\npackages = []\n', encoding="utf-8")
        with pytest.raises(EnvforgeError, match="envforge did not create it"):
            lock_pylock(world.request())
        assert 'created-by = "uv"' in path.read_text(encoding="utf-8")


def test_command_locks_and_checks_both_files(
    tmp_path: Path, conda_channel: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with world_with_registry(tmp_path, conda_channel) as world:
        monkeypatch.setenv("ENVFORGE_MIRRORS", world.mirrors.to_environment())
        monkeypatch.chdir(world.folder)
        assert main(["lock", "--pylock", "--json"]) == 0
        result = json.loads(capfd.readouterr().out)["result"]["pylock"]
        assert [(one["platform"], one["packages"]) for one in result["platforms"]] == [
            ("linux-64", len(packages(world)))
        ]
        assert main(["lock", "--check"]) == 0
        assert capfd.readouterr().out == "conda-lock.yml with pylock.toml is up to date with environment.yml\n"
        world.write(environment_text(pip=("torch==2.7.0+cu118",)))
        assert main(["lock"]) == 0
        assert "pylock.toml is not up to date with conda-lock.yml" in capfd.readouterr().err
        assert main(["lock", "--check"]) == 1
        assert "run `envforge lock --pylock`" in capfd.readouterr().err
        assert main(["install", "pylock.toml", "--locked", "--ignore-machine"]) == 1
        assert "run `envforge lock --pylock`" in capfd.readouterr().err
        for words in (["remove", "pillow"], ["add", "pillow"]):
            assert main(["lock", "--pylock"]) == 0
            assert "not up to date" not in capfd.readouterr().err
            assert main([*words, "--dry-run"]) == 0
            assert "pylock.toml" not in capfd.readouterr().err
            assert main(words) == 0
            stale = "pylock.toml is not up to date with conda-lock.yml; to update it, run `envforge lock --pylock`"
            assert f"warning: {stale}\n" in capfd.readouterr().err
        (world.folder / "pylock.toml").unlink()
        assert main(["lock", "--check"]) == 0
        assert main(["lock", "--check", "--pylock"]) == 1
        assert "`pylock.toml` does not exist" in capfd.readouterr().out
