"""A lockfile is installed over loopback to a working prefix."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from envforge.prefix.journal import unfinished
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import PYTHON_VERSION, SITE_PACKAGES, SUBDIR, Channel
from tests.support.loopback import Loopback


def _run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def whole(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    lock.conda(*(channel.packages[name] for name in ("python", "jinja2", "markupsafe", "binary")))
    lock.wheel(*(path for path in sorted((channel.folder / "wheels").glob("*.whl")) if "-2.0" not in path.name))
    return lock.write(tmp_path / "conda-lock.yml")


def test_a_lock_becomes_a_prefix_whose_python_works(whole: Path, place: Place) -> None:
    report = place.install(whole)
    assert report.outcome == "installed"
    program = place.prefix / "bin" / "python"
    code = "import jinja2, typing_extensions, sys; print(jinja2.Template('{{ a }}!').render(a='hi'), sys.prefix)"
    assert _run(program, "-c", code) == f"hi! {place.prefix}"
    assert _run(place.prefix / "bin" / "tool") == "tool at work"
    assert unfinished(place.prefix) is None


def test_the_prefix_names_the_addresses_of_the_lock(whole: Path, place: Place, server: Loopback) -> None:
    place.install(whole)
    record = json.loads(next((place.prefix / "conda-meta").glob("jinja2-*.json")).read_text())
    assert record["url"].startswith(f"{server.url}/noarch/jinja2-")
    assert record["channel"] == server.url
    binary = json.loads(next((place.prefix / "conda-meta").glob("binary-*.json")).read_text())
    assert "2.0%2Bcu118" in binary["url"]
    assert binary["fn"] == "binary-2.0+cu118-0.conda"


def test_the_prefix_replaces_the_placeholder_in_binary_files(whole: Path, place: Place) -> None:
    place.install(whole)
    blob = (place.prefix / "lib" / "blob").read_bytes()
    assert blob.startswith(b"\0" + str(place.prefix).encode() + b"/x\0")
    assert len(blob) == 1 + 255 + len("/x") + 1 + len("end")


def test_a_second_install_changes_nothing_and_asks_nobody(whole: Path, place: Place, server: Loopback) -> None:
    place.install(whole)
    asked, before = len(server.requests), tree(place.prefix)
    assert place.install(whole).outcome == "unchanged"
    assert len(server.requests) == asked
    assert tree(place.prefix) == before


def test_two_prefixes_of_one_lock_hold_the_same_wheels(whole: Path, place: Place, tmp_path: Path) -> None:
    place.install(whole)
    other = Place(tmp_path / "other")
    other.install(whole)
    mine, theirs = tree(place.prefix / SITE_PACKAGES), tree(other.prefix / SITE_PACKAGES)
    holds_the_prefix = {"tool-1.0.dist-info/RECORD"}  # it has the checksum of bin/tool, whose first line is the prefix
    assert {name for name in mine if mine[name] != theirs.get(name)} == holds_the_prefix
    assert set(mine) == set(theirs)


def test_offline_installs_from_the_cache_alone(whole: Path, place: Place, server: Loopback, tmp_path: Path) -> None:
    place.install(whole)
    asked = len(server.requests)
    again = place.install(whole, prefix=tmp_path / "second", offline=True)
    assert again.downloaded_bytes == 0
    assert len(server.requests) == asked
    assert tree(tmp_path / "second").keys() == tree(place.prefix).keys()


def test_the_smallest_set_of_changes_brings_a_prefix_to_another_lock(
    whole: Path, lock: LockWriter, channel: Channel, place: Place, tmp_path: Path
) -> None:
    place.install(whole)
    jinja = (place.prefix / SITE_PACKAGES / "jinja2" / "__init__.py").stat()
    kept = [row for row in lock.rows if row["name"] not in {"binary", "tool", "typing-extensions"}]
    other = LockWriter(lock.base, rows=kept).conda(channel.packages["greeting"])
    other.wheel(channel.folder / "wheels" / "tool-2.0-py3-none-any.whl")
    report = place.install(other.write(tmp_path / "other.yml"))
    assert report.outcome == "updated"
    assert sorted(report.linked) == ["greeting 1.0", "tool 2.0"]
    assert sorted(report.removed) == ["binary", "typing-extensions"]
    assert not (place.prefix / "lib" / "blob").exists()
    assert _run(place.prefix / "bin" / "tool") == "tool two"
    assert not (place.prefix / SITE_PACKAGES / "typing_extensions.py").exists()
    after = (place.prefix / SITE_PACKAGES / "jinja2" / "__init__.py").stat()
    assert (jinja.st_ino, jinja.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


def test_a_library_that_pip_added_is_taken_away(whole: Path, place: Place, channel: Channel) -> None:
    place.install(whole)
    stray = place.prefix / SITE_PACKAGES / "stray-1.0.dist-info"
    stray.mkdir()
    (stray / "RECORD").write_text(
        "stray-1.0.dist-info/RECORD,,\nstray-1.0.dist-info/INSTALLER,,\nstray-1.0.dist-info/METADATA,,\nstray.py,,\n"
    )
    (stray / "INSTALLER").write_text("pip\n")
    (stray / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    (place.prefix / SITE_PACKAGES / "stray.py").write_text("")
    report = place.install(whole)
    assert report.removed == ("stray",)
    assert not stray.exists()
    assert not (place.prefix / SITE_PACKAGES / "stray.py").exists()


def test_link_scripts_run_only_when_asked_for(lock: LockWriter, channel: Channel, place: Place, tmp_path: Path) -> None:
    written = lock.conda(channel.packages["scripted"]).write(tmp_path / "conda-lock.yml")
    assert place.install(written).scripts == ("scripted",)
    assert not (place.prefix / "ran.txt").exists()
    report = place.install(written, prefix=tmp_path / "second", run_scripts=True)
    assert report.scripts == ()
    assert (tmp_path / "second" / "ran.txt").read_text() == "ran\n"


def test_an_explicit_file_installs_too(channel: Channel, server: Loopback, place: Place, tmp_path: Path) -> None:
    old, greeting = channel.packages["old"], channel.packages["greeting"]
    explicit = tmp_path / "conda-linux-64.lock"
    lines = ["# Generated by conda-lock.", f"# platform: {SUBDIR}", "@EXPLICIT"]
    lines += [f"{server.url}/{old.location}#{old.md5}", f"{server.url}/{greeting.location}#sha256:{greeting.sha256}"]
    explicit.write_text("\n".join(lines) + "\n")
    progress = Noted()
    report = place.install(explicit, progress)
    assert (place.prefix / "share" / "old.txt").read_text() == "old\n"
    assert (place.prefix / "share" / "greeting.txt").read_text() == f"hello from {place.prefix}/share\n"
    assert len(report.warnings) == 1
    assert "MD5" in report.warnings[0]
    assert "old 1.0" in report.warnings[0]
    assert "greeting" not in report.warnings[0]


def test_python_of_the_prefix_is_the_locked_one(whole: Path, place: Place) -> None:
    place.install(whole)
    assert _run(place.prefix / "bin" / "python", "-V") == f"Python {PYTHON_VERSION}"
