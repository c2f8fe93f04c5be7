"""Unpacked files are read again if they changed, or if the request requires it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.prefix.audit import AuditRequest, audit, repair
from envforge.prefix.cache import mark, note_tree, read_tree, standing_tree
from envforge.prefix.values import InstallRequest
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel
from tests.support.loopback import Loopback
from tests.support.wheel import text_wheel


@pytest.fixture
def greeting(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    return lock.conda(channel.packages["greeting"], channel.packages["extra"]).write(tmp_path / "conda-lock.yml")


@pytest.fixture
def tool(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    lock.conda(channel.packages["python"]).wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    return lock.write(tmp_path / "conda-lock.yml")


def _overwrite(path: Path, old: bytes, new: bytes, *, hidden: bool) -> None:
    """Change bytes in place; ``hidden`` puts the time of change back, as no editor and no package manager does."""
    before = path.stat()
    with path.open("r+b") as stream:
        data = stream.read()
        assert data.count(old) == 1
        assert len(old) == len(new)
        stream.seek(data.index(old))
        stream.write(new)
    if hidden:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_damage_that_keeps_size_and_time_is_found_where_reading_is_asked_for(
    greeting: Path, place: Place, tmp_path: Path
) -> None:
    place.install(greeting)
    unpacked = next((place.cache / "pkgs").rglob("extra.txt"))
    _overwrite(unpacked, b"more", b"MORE", hidden=True)
    place.install(greeting, prefix=tmp_path / "trusting")
    assert (tmp_path / "trusting" / "share" / "extra.txt").read_text() == "MORE\n"  # or nothing was spared
    place.install(greeting, prefix=tmp_path / "reading", reread=True)
    assert (tmp_path / "reading" / "share" / "extra.txt").read_text() == "more\n"


def test_an_edit_in_one_environment_does_not_reach_the_next(greeting: Path, place: Place, tmp_path: Path) -> None:
    place.install(greeting)
    _overwrite(place.prefix / "share" / "extra.txt", b"more", b"MORE", hidden=False)
    place.install(greeting, prefix=tmp_path / "second")
    assert (tmp_path / "second" / "share" / "extra.txt").read_text() == "more\n"


def test_a_file_that_is_missing_from_an_unpacked_package_is_unpacked_again(
    greeting: Path, place: Place, tmp_path: Path
) -> None:
    place.install(greeting)
    next((place.cache / "pkgs").rglob("extra.txt")).unlink()
    place.install(greeting, prefix=tmp_path / "second")
    assert (tmp_path / "second" / "share" / "extra.txt").read_text() == "more\n"


def test_records_are_the_same_from_the_archive_and_from_what_was_unpacked(
    greeting: Path, place: Place, tmp_path: Path
) -> None:
    place.install(greeting)
    place.install(greeting, prefix=tmp_path / "second")
    for name in ("extra-1.0-0.json", "greeting-1.0-0.json"):
        prefixes = (place.prefix, tmp_path / "second")
        texts = [(prefix / "conda-meta" / name).read_text().replace(str(prefix), "PREFIX") for prefix in prefixes]
        records = [json.loads(text) for text in texts]
        for record in records:
            for row in record["paths_data"]["paths"]:
                row.pop("sha256_in_prefix", None)
        assert records[0] == records[1]


def test_a_wheel_whose_cached_file_was_edited_in_an_environment_is_installed_whole(
    tool: Path, place: Place, tmp_path: Path
) -> None:
    place.install(tool)
    module = place.prefix / SITE_PACKAGES / "tool" / "__init__.py"
    assert module.stat().st_nlink > 1
    _overwrite(module, b"tool at work", b"tool at WORK", hidden=False)
    progress = Noted()
    place.install(tool, progress, prefix=tmp_path / "second")
    assert b"tool at work" in (tmp_path / "second" / SITE_PACKAGES / "tool" / "__init__.py").read_bytes()
    assert any("tool" in note and "is corrupt" in note for note in progress.notes)


def test_a_wheel_is_read_again_where_that_is_asked_for(tool: Path, place: Place, tmp_path: Path) -> None:
    place.install(tool)
    _settle(place, tool, tmp_path)
    module = place.prefix / SITE_PACKAGES / "tool" / "__init__.py"
    _overwrite(module, b"tool at work", b"tool at WORK", hidden=True)
    place.install(tool, prefix=tmp_path / "trusting")
    assert b"tool at WORK" in (tmp_path / "trusting" / SITE_PACKAGES / "tool" / "__init__.py").read_bytes()
    place.install(tool, prefix=tmp_path / "reading", reread=True)
    assert b"tool at work" in (tmp_path / "reading" / SITE_PACKAGES / "tool" / "__init__.py").read_bytes()


def _settle(place: Place, lock: Path, tmp_path: Path) -> None:
    """Install until the wheel's files are old enough to be noted."""
    noted = next((place.cache / "files").rglob("tool-*.whl.seen"))
    for number in range(20):
        if " -1 -1 " not in noted.read_text():
            return
        place.install(lock, prefix=tmp_path / f"settling-{number}")
    raise AssertionError("the files were never noted")


def test_a_repair_mends_a_damage_that_hides_in_the_cache(tool: Path, place: Place, tmp_path: Path) -> None:
    place.install(tool)
    _settle(place, tool, tmp_path)
    whole = tree(place.prefix / SITE_PACKAGES)
    _overwrite(place.prefix / SITE_PACKAGES / "tool" / "__init__.py", b"at work", b"at WORK", hidden=True)
    asked = AuditRequest(prefix=place.prefix, platform=SUBDIR, full=True)
    request = InstallRequest(lockfile=tool, prefix=place.prefix, platform=SUBDIR, cache=place.cache)
    done = repair(audit(asked), asked, request, Noted())
    assert done.after.drift == ()
    assert tree(place.prefix / SITE_PACKAGES) == whole


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked package of two files and a link, as old as its archive, and noted."""
    folder = tmp_path / "p-1.0-0"
    (folder / "lib").mkdir(parents=True)
    for name in ("a", "lib/b"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    (folder / "c").symlink_to("a")
    os.utime(folder / "c", (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    note_tree(read_tree(folder), _archive(folder), time.time_ns())
    assert standing_tree(folder, _archive(folder))
    return folder


def _archive(folder: Path) -> Path:
    return folder.with_name("p-1.0-0.conda")


def _replace(folder: Path) -> None:
    (folder / "new").write_text("A")
    os.utime(folder / "new", (1_700_000_000, 1_700_000_000))
    (folder / "new").replace(folder / "a")


def _relink(folder: Path) -> None:
    (folder / "c").unlink()
    (folder / "c").symlink_to("lib/b")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: (folder / "a").write_text("A"), id="written"),
        pytest.param(lambda folder: os.truncate(folder / "a", 0), id="truncated"),
        pytest.param(lambda folder: (folder / "lib" / "b").unlink(), id="removed"),
        pytest.param(lambda folder: (folder / "lib" / "d").write_text(""), id="added"),
        pytest.param(lambda folder: (folder / "a").chmod(0o755), id="mode"),
        pytest.param(_replace, id="replaced by a file of the same size and time"),
        pytest.param(_relink, id="link to elsewhere"),
        pytest.param(
            lambda folder: mark(_archive(folder)).write_text("envforge seen 0\n"), id="note of another version"
        ),
        pytest.param(lambda folder: mark(_archive(folder)).write_bytes(b"\xff\0"), id="note damaged"),
        pytest.param(lambda folder: mark(_archive(folder)).unlink(), id="note lost"),
    ],
)
def test_an_unpacked_package_that_has_changed_does_not_stand(package: Path, change: object) -> None:
    assert callable(change)
    change(package)
    assert standing_tree(package, _archive(package)) is None


def test_a_hard_link_is_no_change(package: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").hardlink_to(package / "a")
    assert standing_tree(package, _archive(package))


def test_a_file_that_changed_since_it_was_whole_is_not_noted(package: Path) -> None:
    mark(_archive(package)).unlink()
    began_ns = time.time_ns()
    (package / "a").write_text("A")
    note_tree(read_tree(package), _archive(package), began_ns)
    assert standing_tree(package, _archive(package)) is None


def test_a_wheel_that_does_not_match_its_own_crc_is_not_taken_for_whole(
    lock: LockWriter, channel: Channel, place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "own" / "wheels"
    folder.mkdir(parents=True)
    wheel = text_wheel("broken", "1.0", {"broken/__init__.py": "WORDS = 'as published'\n"}, folder)
    data = wheel.read_bytes()
    wheel.write_bytes(data.replace(b"as published", b"AS published"))  # stored, so that the CRC-32 is now wrong
    with Loopback(folder.parent) as server:
        lock.conda(channel.packages["python"]).rows.extend(LockWriter(server.url).wheel(wheel).rows)
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock.write(tmp_path / "conda-lock.yml"))
    assert caught.value.code in {"wheels-failed", "installed-file-differs"}
    assert "broken" in caught.value.message
