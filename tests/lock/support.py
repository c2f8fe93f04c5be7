"""Provide a directory to lock in, with its own server, cache, and temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from envforge.base.urls import Mirrors
from envforge.lock.lockfile import Lockfile, read_lockfile
from envforge.lock.locking import lock
from envforge.lock.request import LockProgress, LockReport, LockRequest
from tests.support.loopback import Loopback, Request, Response


@dataclass(kw_only=True)
class LockFolder:
    """One project folder. What its server answers, and which addresses lead there, each kind says itself."""

    folder: Path
    conda_url: str
    server: Loopback | None = None

    @property
    def environment(self) -> Path:
        return self.folder / "environment.yml"

    @property
    def lockfile(self) -> Path:
        return self.folder / "conda-lock.yml"

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url

    @property
    def mirrors(self) -> Mirrors:
        raise NotImplementedError

    def answer(self, request: Request) -> Response | None:
        raise NotImplementedError

    def write(self, text: str) -> None:
        self.environment.write_text(text, encoding="utf-8")

    def request(self, **changes: Any) -> LockRequest:
        fields = {"environment": self.environment, "lockfile": self.lockfile, "mirrors": self.mirrors}
        return LockRequest(**{**fields, **changes})

    def lock(self, progress: LockProgress = repr, **changes: Any) -> LockReport:
        return lock(self.request(**changes), progress)

    def read(self) -> Lockfile:
        return read_lockfile(self.lockfile)


# of functions that only name its files
REQUEST = LockRequest(environment=Path("environment.yml"), lockfile=Path("conda-lock.yml"))
_Folder = TypeVar("_Folder", bound=LockFolder)


@contextmanager
def at_work(one: _Folder, text: str) -> Iterator[_Folder]:
    """A folder with its environment.yml and its server; nothing may be left among the temporary files."""
    world = one.folder.parent
    one.folder.mkdir(parents=True)
    (world / "tmp").mkdir()
    one.write(text)
    with Loopback(one.answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)  # no index but those of the test
        patch.setenv("UV_NO_CONFIG", "1")
        patch.setenv("XDG_CACHE_HOME", str(world / "cache"))
        patch.setattr("tempfile.tempdir", str(world / "tmp"))
        one.server = server
        yield one
    assert list((world / "tmp").iterdir()) == []
