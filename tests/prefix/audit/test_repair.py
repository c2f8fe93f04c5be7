"""``envforge audit --fix`` reinstalls only what differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from tests.prefix.audit.conftest import write_lock
from tests.prefix.audit.support import Audited, edit
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import Channel
from tests.support.loopback import Loopback


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_ctime_ns


def test_just_the_packages_that_differ_are_installed_again(audited: Audited) -> None:
    before = audited.audit().digest
    edit(audited.prefix / "share" / "greeting.txt")
    edit(audited.site / "tool" / "__init__.py")
    (audited.site / "jinja2" / "loaders.py").unlink()
    kept = [audited.prefix / "lib" / "blob", audited.site / "typing_extensions.py", audited.prefix / "bin/python3.11"]
    kept = [path for path in kept if path.exists()]
    states = [_state(path) for path in kept]
    done = audited.repair()
    assert sorted(done.linked) == ["greeting 1.0", "jinja2 3.1.6", "tool 1.0"]
    assert done.removed == ()
    assert [_state(path) for path in kept] == states
    report = audited.audit()
    assert report.drift == ()
    assert report.digest == before
    audited.run_python("-c", "import jinja2.loaders, tool; tool.main()")


def test_a_changed_standard_library_leaves_the_wheels_alone(audited: Audited) -> None:
    edit(audited.site.parent / "json" / "__init__.py")
    state = _state(audited.site / "typing_extensions.py")
    done = audited.repair()
    assert [label.split()[0] for label in done.linked] == ["python"]
    assert _state(audited.site / "typing_extensions.py") == state
    assert audited.drift() == []


def test_a_file_edited_in_place_does_not_come_back_from_the_package_cache(
    channel: Channel, server: Loopback, cache: Path, tmp_path: Path
) -> None:
    fresh = Audited(place=Place(tmp_path, cache), lockfile=write_lock(channel, server, tmp_path), base=server.url)
    fresh.place.install(fresh.lockfile)
    before = fresh.audit().digest
    paths = [fresh.site / "jinja2" / "utils.py", fresh.site / "tool" / "data.txt"]
    assert all(path.stat().st_nlink > 1 for path in paths)
    for path in paths:
        with path.open("ab") as stream:
            stream.write(b"edited in place\n")
    fresh.repair(offline=False)  # the cache has the same files, and no archive of them
    assert fresh.drift() == []
    assert fresh.audit().digest == before


def test_a_library_that_moves_from_pip_to_conda_stays_whole(
    audited: Audited, channel: Channel, server: Loopback, tmp_path: Path
) -> None:
    wheel = next((channel.folder / "wheels").glob("markupsafe-*.whl"))
    python, conda = channel.packages["python"], channel.packages["markupsafe"]
    other = Audited(place=Place(tmp_path, audited.place.cache), lockfile=tmp_path / "of_conda.yml", base=server.url)
    other.place.install(LockWriter(server.url).conda(python).wheel(wheel).write(tmp_path / "of_pip.yml"))
    other.place.install(LockWriter(server.url).conda(python, conda).write(other.lockfile))
    assert other.drift() == []


def test_strays_are_moved_aside_and_never_deleted(audited: Audited) -> None:
    for text in ("one", "two"):
        (audited.site / "mine").mkdir()
        (audited.site / "mine" / "notes.py").write_text(text)
        done = audited.repair()
        assert len(done.moved) == 1
        assert not (audited.site / "mine").exists()
    moved = sorted(path.read_text() for path in done.moved_to.rglob("notes.py*"))
    assert moved == ["one", "two"]
    assert audited.drift() == []


def test_what_pip_added_is_removed(audited: Audited) -> None:
    info = audited.site / "added-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("added.py,,\n" + "".join(f"{info.name}/{n},,\n" for n in ("METADATA", "RECORD")))
    (audited.site / "added.py").write_text("")
    assert ("package-extra", "added") in audited.drift()
    assert audited.repair().removed == ("added",)
    assert audited.drift() == []
    assert not (audited.site / "added.py").exists()


def test_a_wheel_without_record_is_made_whole(audited: Audited) -> None:
    (audited.site / "tool-1.0.dist-info" / "RECORD").unlink()
    audited.repair()
    assert audited.drift() == []
    audited.run_python("-c", "import tool; tool.main()")


def test_a_prefix_of_others_is_not_changed(audited: Audited) -> None:
    shutil.rmtree(audited.prefix / ".envforge")
    edit(audited.prefix / "share" / "greeting.txt")
    with pytest.raises(EnvforgeError) as caught:
        audited.repair(audited.lockfile)
    assert caught.value.code == "prefix-foreign"
