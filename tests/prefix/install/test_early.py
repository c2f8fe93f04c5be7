"""Wheels are installed while conda packages are linked, and an install waits for the uv of a killed one."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from envforge.lock.plan import make_plan, read_any_lock
from envforge.prefix.apply import split_python
from envforge.prefix.cache import Store
from envforge.prefix.conda_packages import unpack
from envforge.prefix.fetch import Fetched
from envforge.prefix.installed import pip_installed
from envforge.prefix.journal import lock_prefix, mark_writing
from envforge.prefix.wheels import Batch, Site, stand_alone
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel, text_package
from tests.support.loopback import Loopback


@pytest.fixture
def twin(tmp_path: Path) -> Channel:
    """A conda package ``tool-of-conda`` that brings the library ``tool``, in another version than the wheel."""
    own = Channel(tmp_path / "own")
    info = f"{SITE_PACKAGES}/tool-0.9.dist-info"
    texts = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tool\nVersion: 0.9\n",
        f"{info}/INSTALLER": "conda\n",
        f"{info}/RECORD": "tool/__init__.py,,\ntool-0.9.dist-info/METADATA,,\ntool-0.9.dist-info/INSTALLER,,\n"
        "tool-0.9.dist-info/RECORD,,\n",
        f"{SITE_PACKAGES}/tool/__init__.py": "print('of conda')\n",
    }
    own.add(text_package("tool-of-conda", "0.9", texts))
    return own


def test_a_wheel_wins_over_a_conda_package_that_brings_its_library_under_another_name(
    twin: Channel, channel: Channel, lock: LockWriter, place: Place, tmp_path: Path
) -> None:
    with Loopback(twin.folder) as server:
        lock.conda(channel.packages["python"]).wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
        lock.rows.extend(LockWriter(server.url).conda(twin.packages["tool-of-conda"]).rows)
        place.install(lock.write(tmp_path / "conda-lock.yml"))
    site = place.prefix / SITE_PACKAGES
    assert sorted(path.name for path in site.glob("tool-*")) == ["tool-1.0.dist-info"]
    assert "tool at work" in (site / "tool" / "__init__.py").read_text()
    assert pip_installed(place.prefix) == {"tool"}


@pytest.mark.parametrize(
    ("found", "alone"),
    [
        ({"tool-1.0": "uv"}, True),
        ({"tool-1.0": "uv", "other-2.0": "conda"}, True),
        ({"tool-1.0": "conda"}, False),
        ({"tool-1.0": "uv", "tool-0.9": "conda"}, False),
        ({"other-2.0": "uv"}, False),
    ],
)
def test_a_wheel_stands_alone_where_uv_alone_has_installed_it(
    found: dict[str, str], *, alone: bool, channel: Channel, lock: LockWriter, tmp_path: Path
) -> None:
    wheel = channel.folder / "wheels" / "tool-1.0-py3-none-any.whl"
    lockfile = lock.conda(channel.packages["python"]).wheel(wheel).write(tmp_path / "conda-lock.yml")
    plan = make_plan(read_any_lock(lockfile, SUBDIR), SUBDIR, lockfile)
    for name, installer in found.items():
        info = tmp_path / "site" / f"{name}.dist-info"
        info.mkdir(parents=True)
        (info / "INSTALLER").write_text(installer, encoding="utf-8")
    batch = Batch(
        wheels=tuple(Fetched(artifact=artifact, path=wheel, downloaded_bytes=0) for artifact in plan.wheels),
        site=Site(prefix=tmp_path, packages=tmp_path / "site", program=tmp_path / "python"),
        store=Store(tmp_path / "cache"),
        progress=Noted(),
        renew=lambda _: None,
    )
    assert stand_alone(batch) is alone


def test_wheels_beside_the_conda_packages_give_the_same_files_as_wheels_after_them(
    channel: Channel, lock: LockWriter, place: Place, tmp_path: Path
) -> None:
    lock.conda(*(channel.packages[name] for name in ("python", "jinja2", "markupsafe", "binary")))
    conda = lock.write(tmp_path / "conda.yml")
    whole = lock.wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl").write(tmp_path / "whole.yml")
    place.install(whole)
    after = Place(tmp_path / "after", place.cache)
    after.install(conda)
    after.install(whole)
    beside, behind = (tree(prefix / SITE_PACKAGES) for prefix in (place.prefix, after.prefix))
    record = "tool-1.0.dist-info/RECORD"  # has the checksum of bin/tool, whose first line names the prefix
    assert beside.pop(record) != behind.pop(record)
    assert beside == behind


def test_what_python_needs_comes_before_the_wheels(tmp_path: Path) -> None:
    own = Channel(tmp_path / "own")
    own.add(
        text_package("python", "3.11.0", {}, depends=("libz >=1", "openssl", "__glibc >=2")),
        text_package("libz", "1.0", {}),
        text_package("openssl", "3.0", {}, depends=("libz",)),
        text_package("apart", "1.0", {}, depends=("python",)),
    )
    lockfile = LockWriter("http://127.0.0.1").conda(*own.packages.values()).write(tmp_path / "conda-lock.yml")
    plan = make_plan(read_any_lock(lockfile, SUBDIR), SUBDIR, lockfile)
    store = Store(tmp_path / "cache")
    fetched = [Fetched(artifact=a, path=own.packages[a.package.name].path, downloaded_bytes=0) for a in plan.conda]
    python, rest = split_python(unpack(item, store, SUBDIR) for item in fetched)
    assert {archive.record.name.normalized for archive in python} == {"python", "libz", "openssl"}
    assert [archive.record.name.normalized for archive in rest] == ["apart"]


def test_an_early_attempt_that_ends_in_an_error_of_python_is_not_hidden(
    channel: Channel, lock: LockWriter, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: Batch) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("envforge.prefix.apply.install_wheels", fail)
    lock.conda(channel.packages["python"]).wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    with pytest.raises(ZeroDivisionError):
        place.install(lock.write(tmp_path / "conda-lock.yml"))


def test_an_install_waits_for_the_uv_of_a_killed_one(
    channel: Channel, lock: LockWriter, place: Place, tmp_path: Path
) -> None:
    """The child holds the prefix by what it has inherited, when the parent's own file is closed long since."""
    greeting = lock.conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
    with lock_prefix(place.prefix), mark_writing(place.prefix) as inherited:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=inherited)
    noted = threading.Event()

    class Waiting(Noted):
        def note(self, text: str) -> None:
            super().note(text)
            noted.set()

    progress = Waiting()
    install = threading.Thread(target=place.install, args=(greeting, progress))
    install.start()
    try:
        assert noted.wait(30)
        assert progress.steps == []
    finally:
        child.communicate(b"\n")
    install.join(60)
    assert "waiting for the uv process" in progress.notes[0]
    assert (place.prefix / "share" / "greeting.txt").exists()
