"""Test that ``lock --check`` finds what was edited in a lockfile, and packages that contradict each other."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from envforge.base.data_files import lockfiles_root
from envforge.base.documents import load_yaml
from envforge.catalogue.index import list_entries
from envforge.lock.check import check_inputs, check_lock
from envforge.lock.consistency import contradictions
from envforge.lock.inputs import read_inputs
from envforge.lock.lockfile import (
    INPUT_SHA256,
    LOCKFILE_SHA256,
    Frame,
    LockfileError,
    parse_lockfile,
    read_lockfile,
    render_lockfile,
)
from envforge.lock.project import recorded_sha256
from tests.lock.conftest import World, environment_text
from tests.lock.torchindex import SHARED

ENVIRONMENT = """\
channels: [conda-forge]
platforms: [linux-64]
variables: {MODE: fast}
dependencies: [python, numpy, pip, {pip: [shapes]}]
"""
OWN_SHA256 = ("metadata", "custom_metadata", LOCKFILE_SHA256)
Row = dict[str, Any]
Edit = Callable[[Row], object]


def row(name: str, version: str, *, manager: str = "conda", **needs: str) -> Row:
    """A package of a lockfile, as conda-lock writes it."""
    is_conda = manager == "conda"
    file = f"{name}-{version}-h0_0.conda" if is_conda else f"{name}-{version}-py3-none-any.whl"
    folder = "https://conda.anaconda.org/conda-forge/linux-64" if is_conda else "https://files.example/packages"
    return {
        "name": name,
        "version": version,
        "manager": manager,
        "platform": "linux-64",
        "dependencies": needs,
        "url": f"{folder}/{file}",
        "hash": {"md5": "ab" * 16, "sha256": "1d" * 32} if is_conda else {"sha256": "e2" * 32},
        "category": "main",
        "optional": False,
    }


ROWS = (
    row("python", "3.11.7", __glibc=">=2.17"),
    row("numpy", "2.1.0", python=">=3.10", python_abi="3.11.* *_cp311"),
    row("python_abi", "3.11") | {"url": "https://conda.anaconda.org/conda-forge/noarch/python_abi-3.11-5_cp311.conda"},
    row("pip", "25.0", python=">=3.8"),
    row("shapes", "2.0", manager="pip", colour=">=1,<2 || >2", numpy=">=2"),
    row("colour", "1.5", manager="pip"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with environment.yml and its lockfile."""
    found = tmp_path_factory.mktemp("edits")
    (found / "environment.yml").write_text(ENVIRONMENT, encoding="utf-8")
    frame = Frame(
        content_hash=(("linux-64", "0" * 64),),
        channels=[{"url": "conda-forge", "used_env_vars": []}],
        platforms=("linux-64",),
        sources=("environment.yml",),
        custom={
            "created_by": "envforge",
            INPUT_SHA256: recorded_sha256([found / "environment.yml"]),
            "envforge_variables": '{"MODE": "fast"}',
        },
    )
    (found / "conda-lock.yml").write_text(render_lockfile(frame, ROWS, "conda-lock.yml"), encoding="utf-8")
    return found


@cache
def document_in(folder: Path) -> Row:
    return dict(load_yaml((folder / "conda-lock.yml").read_text(encoding="utf-8")))


def codes(folder: Path, text: str) -> list[str]:
    """Check a lockfile with this text against the environment file of ``folder``."""
    inputs = read_inputs(folder / "environment.yml", None)
    return [one.code for one in check_inputs(inputs, parse_lockfile(text, "conda-lock.yml"))]


def test_lockfile_as_it_was_written_is_up_to_date(folder: Path) -> None:
    assert check_lock(folder / "environment.yml", folder / "conda-lock.yml") == ()


def places(value: object, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from places(one, *path, key)


@given(data=st.data())
def test_any_value_that_is_changed_or_removed_is_found(folder: Path, data: st.DataObject) -> None:
    """Without exception: order and format are no values, and who removes the SHA-256 makes it an older lockfile."""
    document = copy.deepcopy(document_in(folder))
    path = data.draw(st.sampled_from(sorted(places(document), key=str)))
    *above, last = path
    holder: Any = document
    for key in above:
        holder = holder[key]
    other = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.sampled_from([[], {}, "0" * 64, "conda"]))
    new = data.draw(st.one_of(other, st.just(...)))
    if new is ...:
        assume(path != OWN_SHA256)
        del holder[last]
    else:
        assume(json.dumps(new) != json.dumps(holder[last]))
        holder[last] = new
    with contextlib.suppress(LockfileError):
        assert codes(folder, yaml.safe_dump(document)) != []


@given(seed=st.integers(), width=st.sampled_from([20, 4096]), style=st.sampled_from([None, True, False]))
def test_another_order_or_format_is_not_an_edit(folder: Path, seed: int, width: int, style: bool | None) -> None:
    document = copy.deepcopy(document_in(folder))
    random.Random(seed).shuffle(document["package"])
    text = yaml.safe_dump(document, sort_keys=bool(seed % 2), width=width, default_flow_style=style)
    assert codes(folder, f"# merged\n{text}".replace("\n", "\r\n")) == []


def changed(name: str, **values: object) -> Edit:
    """The edit that changes the values of one package."""
    return lambda document: next(p for p in document["package"] if p["name"] == name).update(values)


def added(name: str, **values: object) -> Edit:
    """The edit that adds another package like this one."""

    def edit(document: Row) -> None:
        document["package"].append({**next(p for p in document["package"] if p["name"] == name), **values})

    return edit


FORGE = "https://conda.anaconda.org/conda-forge"
CONTRADICTIONS: dict[str, tuple[Edit, str, str]] = {
    "listed twice": (
        added("colour", version="1.4", url="https://files.example/packages/colour-1.4-py3-none-any.whl"),
        "twice",
        "`colour` (pip) is one package on linux-64, but it is listed as `1.5`, `1.4`",
    ),
    "without a hash": (
        changed("numpy", hash={}),
        "no-sha256",
        "`numpy 2.1.0` needs a SHA-256 on linux-64, but it has none",
    ),
    "only an md5": (
        changed("numpy", hash={"md5": "ab" * 16}),
        "no-sha256",
        "`numpy 2.1.0` needs a SHA-256 on linux-64, but it has none",
    ),
    "zeros": (
        changed("colour", hash={"sha256": "0" * 64}),
        "no-sha256",
        "`colour 1.5` needs a SHA-256 on linux-64, but it has only zeros",
    ),
    "the file of another version": (
        changed("numpy", url=f"{FORGE}/linux-64/numpy-2.0.0-h0_0.conda"),
        "other-file",
        f"`numpy 2.1.0` is locked on linux-64, but its URL is `{FORGE}/linux-64/numpy-2.0.0-h0_0.conda`",
    ),
    "the file of another platform": (
        changed("numpy", url=f"{FORGE}/osx-64/numpy-2.1.0-h0_0.conda"),
        "other-file",
        f"`numpy 2.1.0` is locked on linux-64, but its URL is `{FORGE}/osx-64/numpy-2.1.0-h0_0.conda`",
    ),
    "the wheel of another version": (
        changed("colour", url="https://files.example/packages/colour-1.4-py3-none-any.whl"),
        "other-file",
        "`colour 1.5` is locked on linux-64, but its URL is `https://files.example/packages/colour-1.4-py3-none-any.whl`",
    ),
    "the wheel for another Python": (
        changed("colour", url="https://files.example/packages/colour-1.5-cp310-cp310-win_amd64.whl"),
        "unfit-wheel",
        "`colour 1.5` must support Python 3.11.7 on linux-64, but `colour-1.5-cp310-cp310-win_amd64.whl` is locked",
    ),
    "another channel": (
        changed("numpy", url="https://x.example/linux-64/numpy-2.1.0-h0_0.conda"),
        "other-channel",
        "`numpy 2.1.0` must come from `conda-forge` on linux-64, but its URL is `https://x.example/linux-64/numpy-2.1.0-h0_0.conda`",
    ),
    "too old for a wheel": (
        changed("colour", version="0.5", url="https://files.example/packages/colour-0.5-py3-none-any.whl"),
        "dependency-version",
        "`shapes 2.0` needs `colour >=1,<2 || >2` on linux-64, but `0.5` is locked",
    ),
    "conda's version too old for a wheel": (
        changed("numpy", version="1.9", url=f"{FORGE}/linux-64/numpy-1.9-h0_0.conda"),
        "dependency-version",
        "`shapes 2.0` needs `numpy >=2` on linux-64, but `1.9` is locked",
    ),
    "another build": (
        changed("python_abi", url=f"{FORGE}/noarch/python_abi-3.11-5_pypy.conda"),
        "dependency-version",
        "`numpy 2.1.0` needs `python_abi 3.11.* *_cp311` on linux-64, but `3.11 5_pypy` is locked",
    ),
    "another Python": (
        changed("python", version="3.9.1", url=f"{FORGE}/linux-64/python-3.9.1-h0_0.conda"),
        "dependency-version",
        "`numpy 2.1.0` needs `python >=3.10` on linux-64, but `3.9.1` is locked",
    ),
    "a platform that isn't listed": (
        added("pip", platform="osx-64", url=f"{FORGE}/noarch/pip-25.0-h0_0.conda"),
        "platform-unlisted",
        "the lockfile is for linux-64, but `pip 25.0` is locked for osx-64",
    ),
    "another category": (
        changed("numpy", category="dev", optional=True),
        "other-category",
        "`numpy` (conda) is requested in the category `main` on linux-64, but it is locked in `dev`",
    ),
    "optional": (
        changed("numpy", optional=True),
        "optional",
        "`numpy 2.1.0` has the category `main` on linux-64, but `optional` is true",
    ),
    "two hashes of one file": (
        added("pip", category="dev", optional=True, hash={"sha256": "33" * 32}),
        "two-hashes",
        f"`{FORGE}/linux-64/pip-25.0-h0_0.conda` is one file, but its hash for linux-64 is not the one for linux-64",
    ),
    "no variables": (
        lambda document: document["metadata"]["custom_metadata"].pop("envforge_variables"),
        "variables",
        'the variables `{"MODE": "fast"}` are requested, but the lockfile has `{}`',
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction_in_an_older_lockfile_is_named(folder: Path, name: str) -> None:
    edit, code, message = CONTRADICTIONS[name]
    document = copy.deepcopy(document_in(folder))
    del document["metadata"]["custom_metadata"][LOCKFILE_SHA256]
    assert codes(folder, yaml.safe_dump(document)) == []
    edit(document)
    inputs = read_inputs(folder / "environment.yml", None)
    found = check_inputs(inputs, parse_lockfile(yaml.safe_dump(document), "conda-lock.yml"))
    assert (code, message) in [(one.code, str(one)) for one in found]


def real_lockfiles() -> list[Path]:
    """The built-in lockfiles, and those of public projects next to the checkout, if there are any."""
    return [*(entry.path for entry in list_entries(lockfiles_root())), *sorted((SHARED / "lockfiles").glob("*.yml"))]


@pytest.mark.parametrize("path", real_lockfiles(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_real_lockfile_has_no_contradiction(path: Path) -> None:
    channels = ["pytorch"]  # requested as `pytorch::pytorch`
    assert [str(one) for one in contradictions(read_lockfile(path), channels)] == []


def test_lock_repairs_an_edited_lockfile(world: World) -> None:
    world.lock()
    written = world.lockfile.read_text(encoding="utf-8")
    document = load_yaml(written)
    numpy, pillow, sympy = (
        next(p for p in document["package"] if p["name"] == n) for n in ("numpy", "pillow", "sympy")
    )
    numpy.update(category="docs", optional=True)
    pillow["hash"] = {}
    sympy["url"] = sympy["url"].replace("1.14.0", "1.13.0")
    document["package"].append({**numpy, "version": "1.0"})
    world.lockfile.write_text(yaml.safe_dump(document), encoding="utf-8")
    report = world.lock()
    assert f"`{world.lockfile}` was edited after envforge wrote it, so it was solved again" in report.warnings
    assert world.lockfile.read_text(encoding="utf-8") == written


def test_new_comment_in_the_input_is_not_an_edit_of_the_lockfile(world: World) -> None:
    world.lock()
    world.write(f"# why\n{environment_text()}")
    assert world.lock().is_unchanged
    assert world.read().is_as_written
    assert check_lock(world.environment, world.lockfile) == ()
