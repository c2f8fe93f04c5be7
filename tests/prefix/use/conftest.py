from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.prefix.install.support import LockWriter, Place
from tests.prefix.use.support import User
from tests.support.channel import PLACEHOLDER, Channel, File, Package, text_package

HELLO = '#!/bin/sh\necho "$GREETING from $CONDA_PREFIX"\n'
ENTER = 'export ENTERED="$GREETING"; export WORDS="$#"; echo entering\n'
LEAVE = 'export LEFT="$CONDA_PREFIX"; unset ENTERED\n'


def install(folder: Path, prefix: Path, *packages: Package) -> Path:
    """A real environment of small packages."""
    channel = Channel(folder / "channel")
    channel.add(*packages)
    lock = LockWriter(channel.folder.as_uri()).conda(*channel.packages.values()).write(folder / "conda-lock.yml")
    Place(folder).install(lock, prefix=prefix)
    return prefix


def hello(greeting: str = "hello") -> Package:
    """A program, and a variable that it reads."""
    variables = json.dumps({"GREETING": greeting})
    return text_package("hello", "1.0", {"bin/hello": HELLO, "etc/conda/env_vars.d/hello.json": variables})


def scripted() -> Package:
    """Scripts for entering and leaving, in the languages of two shells."""
    return Package(
        name="scripted",
        version="1.0",
        files=(
            File(path="etc/conda/activate.d/scripted.sh", data=ENTER.encode()),
            File(path="etc/conda/activate.d/scripted.fish", data=b'set -gx ENTERED "$GREETING"; echo entering\n'),
            File(path="etc/conda/deactivate.d/scripted.sh", data=LEAVE.encode()),
            File(path="share/where", data=f"{PLACEHOLDER}\n".encode(), prefix_mode="text"),
        ),
    )


@pytest.fixture
def user(tmp_path: Path) -> User:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    return User(home)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The environment of a project, without scripts."""
    return install(tmp_path / "made-plain", tmp_path / "digits" / ".conda", hello())


@pytest.fixture
def with_scripts(tmp_path: Path) -> Path:
    """An environment whose packages bring activation scripts."""
    return install(tmp_path / "made-scripted", tmp_path / "it's $HOME", hello("salve"), scripted())
