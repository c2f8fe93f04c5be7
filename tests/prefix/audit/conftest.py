from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefix.audit.support import Audited
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import (
    PLACEHOLDER,
    SITE_PACKAGES,
    Channel,
    File,
    Package,
    python_package,
    requested_closure,
    text_package,
)
from tests.support.loopback import Loopback
from tests.support.wheel import rebuild_wheel, text_wheel

SCRIPT = f"""echo made > "$PREFIX/{SITE_PACKAGES}/made_by_script.py"
echo more > "$PREFIX/share/scripted/list.cache"
"""


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """Python, two real libraries, files that hold the prefix, and a package with a link script."""
    channel = Channel(tmp_path_factory.mktemp("channel"))
    channel.add(python_package(), *requested_closure("jinja2"))
    blob = b"\0" + PLACEHOLDER.encode() + b"/x:" + PLACEHOLDER.encode() + b"\0end\0\0\0"
    binary = File(path="lib/blob", data=blob, prefix_mode="binary")
    channel.add(Package(name="binary", version="2.0+cu118", files=(binary,)))
    channel.add(text_package("greeting", "1.0", {"share/greeting.txt": f"hello from {PLACEHOLDER}/share\n"}))
    scripted = {"bin/.scripted-post-link.sh": SCRIPT, "share/scripted/list.cache": "one\n"}
    channel.add(text_package("scripted", "1.0", scripted))
    channel.add(text_package("launched", "1.0", {"share/launched.txt": "x"}, depends=("python",)))
    wheels = channel.folder / "wheels"
    wheels.mkdir()
    rebuild_wheel("typing_extensions", wheels)
    rebuild_wheel("markupsafe", wheels)
    for version in ("1.0", "2.0"):
        texts = {"tool/__init__.py": f"def main():\n    print('tool {version}')\n", "tool/data.txt": "data\n"}
        text_wheel("tool", version, texts, wheels, scripts=("tool = tool:main",))
    return channel


@pytest.fixture(scope="session")
def server(channel: Channel) -> Iterator[Loopback]:
    with Loopback(channel.folder) as server:
        yield server


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: installs are then a matter of linking."""
    return tmp_path_factory.mktemp("cache")


def write_lock(channel: Channel, server: Loopback, folder: Path) -> Path:
    lock = LockWriter(server.url).conda(*(channel.packages[name] for name in _CONDA))
    lock.wheel(*(path for path in sorted((channel.folder / "wheels").glob("t*.whl")) if "-2.0" not in path.name))
    return lock.write(folder / "conda-lock.yml")


_CONDA = ("python", "jinja2", "markupsafe", "binary", "greeting", "scripted")


@pytest.fixture(scope="session")
def pristine(channel: Channel, server: Loopback, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A prefix, freshly installed, with a copy of it beside it: installing for each test would take a second each."""
    place = Place(tmp_path_factory.mktemp("audited"), cache)
    lockfile = write_lock(channel, server, place.folder)
    place.install(lockfile)
    shutil.copytree(place.prefix, place.folder / "copy", symlinks=True)
    return Audited(place=place, lockfile=lockfile, base=server.url)


@pytest.fixture
def audited(pristine: Audited, channel: Channel, server: Loopback) -> Audited:
    """A prefix as it was installed from a lock of conda packages and wheels."""
    write_lock(channel, server, pristine.place.folder)
    shutil.rmtree(pristine.prefix)
    shutil.copytree(pristine.place.folder / "copy", pristine.prefix, symlinks=True, copy_function=_copy)
    return pristine


def _copy(source: str, target: str) -> None:
    """Link, for tests put other files in place of these; copy what is changed in place."""
    if "/conda-meta/" in source or "/.envforge/" in source:
        shutil.copy2(source, target)
    else:
        Path(target).hardlink_to(source)
