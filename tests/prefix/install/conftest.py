from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import (
    PLACEHOLDER,
    Channel,
    File,
    Package,
    python_package,
    requested_closure,
    text_package,
)
from tests.support.loopback import Loopback
from tests.support.wheel import rebuild_wheel, text_wheel


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """Python and two real libraries, and small packages for what needs no Python."""
    channel = Channel(tmp_path_factory.mktemp("channel"))
    channel.add(python_package(), *requested_closure("jinja2"))
    channel.add(
        text_package("greeting", "1.0", {"share/greeting.txt": f"hello from {PLACEHOLDER}/share\n"}),
        text_package("extra", "1.0", {"share/extra.txt": "more\n"}),
        Package(
            name="binary",
            version="2.0+cu118",
            files=(File(path="lib/blob", data=b"\0" + PLACEHOLDER.encode() + b"/x\0end", prefix_mode="binary"),),
        ),
        text_package("scripted", "1.0", {"bin/.scripted-post-link.sh": 'echo ran > "$PREFIX/ran.txt"\n'}),
    )
    channel.add(text_package("old", "1.0", {"share/old.txt": "old\n"}), extension=".tar.bz2")
    wheels = channel.folder / "wheels"
    wheels.mkdir()
    rebuild_wheel("typing_extensions", wheels)
    text_wheel("tool", "1.0", {"tool/__init__.py": "def main():\n    print('tool at work')\n"}, wheels, scripts=TOOL)
    text_wheel("tool", "2.0", {"tool/__init__.py": "def main():\n    print('tool two')\n"}, wheels, scripts=TOOL)
    return channel


TOOL = ("tool = tool:main",)


@pytest.fixture
def server(channel: Channel) -> Iterator[Loopback]:
    with Loopback(channel.folder) as server:
        yield server


@pytest.fixture
def lock(server: Loopback) -> LockWriter:
    return LockWriter(server.url)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def greeting(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    """A lockfile of one package."""
    return lock.conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
