"""The files of a prefix have the permissions of the umask, as other members of a group expect."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefix.install.support import LockWriter, Place
from tests.prefix.install.test_pylock import pylock
from tests.support.channel import Channel
from tests.support.loopback import Loopback
from tests.support.transcripts import ROOT

assert sys.platform == "linux"


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("kind", ["conda", "pylock"])
def test_files_of_an_environment_follow_the_umask(
    tmp_path: Path, server: Loopback, channel: Channel, place: Place, kind: str, umask: int
) -> None:
    if kind == "conda":
        packages = [channel.packages[name] for name in ("greeting", "binary", "extra")]
        lock = LockWriter(server.url).conda(*packages).write(tmp_path / "conda-lock.yml")
    else:
        lock = pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0")
    lock.chmod(0o666)  # its copy in the prefix isn't readable by more people
    options = ["--frozen", "--prefix", str(place.prefix), "--cache", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "envforge", "install", str(lock), *options]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, umask=umask, timeout=120, check=True)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in place.prefix.rglob("*") if not path.is_symlink()}
    assert found
    assert {str(path): oct(mode) for path, mode in found.items() if mode & 0o666 != 0o666 & ~umask} == {}
