"""An interrupted install is reported as incomplete, and the next install completes it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.prefix.journal import Journal, journal_path, read_journal, unfinished, write_journal
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.prefix.install.test_pylock import pylock
from tests.support.channel import SITE_PACKAGES, Channel, text_package
from tests.support.loopback import Loopback, Request

assert sys.platform != "win32"

ROOT = Path(__file__).parents[3]


def _start(lock: Path, place: Place, moment: int) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "tests.prefix.install.killed",
        str(lock),
        str(place.prefix),
        str(place.cache),
        str(moment),
    ]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _count(lock: Path, place: Place) -> int:
    output, errors = _start(lock, place, 0).communicate()
    assert output, errors
    return int(output)


def _kill_at(lock: Path, place: Place, moment: int) -> None:
    child = _start(lock, place, moment)
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lock of twelve small packages, served for the time of the module."""
    channel = Channel(tmp_path_factory.mktemp("many"))
    for number in range(12):
        channel.add(text_package(f"p{number:02}", "1.0", {f"share/{number}/{name}": name * 99 for name in "abc"}))
    with Loopback(channel.folder) as server:
        lock = LockWriter(server.url).conda(*channel.packages.values())
        yield lock.write(channel.folder / "conda-lock.yml")


@pytest.mark.slow
def test_killed_at_any_moment_of_the_conda_half_the_next_install_completes_it(many: Path, tmp_path: Path) -> None:
    reference = Place(tmp_path / "reference")
    moments = _count(many, reference)
    assert moments > 30
    chosen = sorted(random.Random(3).sample(range(1, moments + 1), 14))
    for moment in chosen:
        place = Place(tmp_path / f"at-{moment}")
        _kill_at(many, place, moment)
        assert not journal_path(place.prefix).exists() or unfinished(place.prefix) is not None
        place.install(many)
        assert unfinished(place.prefix) is None
        assert _normal(place) == _normal(reference), f"killed at moment {moment} of {moments}"


@pytest.mark.slow
def test_killed_at_any_moment_of_the_wheel_half_the_next_install_completes_it(
    lock: LockWriter, channel: Channel, tmp_path: Path
) -> None:
    lock.conda(*(channel.packages[name] for name in ("python", "jinja2", "markupsafe", "greeting")))
    lock.wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    written = lock.write(tmp_path / "conda-lock.yml")
    reference = Place(tmp_path / "reference")
    reference.install(written)
    moments = _count(written, Place(tmp_path / "warm", reference.cache))
    cold = _count(written, Place(tmp_path / "cold"))
    chosen = random.Random(3).sample(range(cold - 20, cold), 4)
    for moment, cache in [
        *((each, None) for each in chosen),
        *((each + 1, reference.cache) for each in range(moments)),
    ]:
        place = Place(tmp_path / f"at-{moment}-{cache is None}", cache)
        _kill_at(written, place, moment)
        assert not journal_path(place.prefix).exists() or unfinished(place.prefix) is not None
        place.install(written)
        assert unfinished(place.prefix) is None
        assert tree(place.prefix / SITE_PACKAGES).keys() == tree(reference.prefix / SITE_PACKAGES).keys()


@pytest.mark.slow
def test_killed_at_any_moment_of_a_pylock_the_next_install_completes_it(
    server: Loopback, channel: Channel, tmp_path: Path
) -> None:
    lockfile = pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", "typing_extensions")
    reference = Place(tmp_path / "reference")
    reference.install(lockfile)
    moments = _count(lockfile, Place(tmp_path / "warm", reference.cache))
    for moment in range(1, moments + 1):
        place = Place(tmp_path / f"at-{moment}", reference.cache)
        _kill_at(lockfile, place, moment)
        assert not journal_path(place.prefix).exists() or unfinished(place.prefix) is not None
        place.install(lockfile)
        assert unfinished(place.prefix) is None
        assert tree(place.prefix / SITE_PACKAGES).keys() == tree(reference.prefix / SITE_PACKAGES).keys()


def _normal(place: Place) -> dict[str, str]:
    """The files of a prefix; conda-meta without the cache's own folder."""
    found = tree(place.prefix)
    for path in (place.prefix / "conda-meta").glob("*.json"):
        document = json.loads(path.read_text())
        for name in ("extracted_package_dir", "link"):
            document.pop(name, None)
        found[f"conda-meta/{path.name}"] = json.dumps(document)
    return found


def test_a_second_install_into_the_same_prefix_names_the_process_that_holds_it(
    channel: Channel, place: Place, tmp_path: Path
) -> None:
    asked, released = threading.Event(), threading.Event()

    def gate(_: Request) -> None:
        asked.set()
        released.wait(30)

    with Loopback(channel.folder, gate=gate) as server:
        lock = LockWriter(server.url).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
        first = _start(lock, place, 0)
        assert asked.wait(30)
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock)
        released.set()
        first.communicate()
    assert caught.value.code == "prefix-busy"
    assert f"(PID {first.pid})" in caught.value.message
    assert first.returncode == 0
    assert place.install(lock).outcome == "unchanged"


def test_an_interrupt_ends_a_download_that_hangs_and_leaves_nothing(channel: Channel, tmp_path: Path) -> None:
    asked, released = threading.Event(), threading.Event()

    def gate(_: Request) -> None:
        asked.set()
        released.wait(30)

    with Loopback(channel.folder, gate=gate) as server:
        lock = LockWriter(server.url).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
        words = [sys.executable, "-m", "envforge", "install", str(lock), "--prefix", str(tmp_path / "prefix")]
        words += ["--cache", str(tmp_path / "cache")]
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
            assert asked.wait(30)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=20)  # the server is still silent
        released.set()
    assert child.returncode == 130
    assert errors.splitlines()[-1] == "error: interrupted"  # a slow run reports its progress before
    assert not (tmp_path / "prefix").exists()


def test_a_folder_that_envforge_did_not_make_is_not_touched(greeting: Path, place: Place, server: Loopback) -> None:
    place.prefix.mkdir()
    (place.prefix / "thesis.txt").write_text("years of work")
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.code == "prefix-foreign"
    assert [path.name for path in place.prefix.iterdir()] == ["thesis.txt"]
    assert server.requests == ()


def test_force_adds_to_a_foreign_folder_and_keeps_what_is_there(greeting: Path, place: Place) -> None:
    place.prefix.mkdir()
    (place.prefix / "thesis.txt").write_text("years of work")
    place.install(greeting, force=True)
    assert (place.prefix / "thesis.txt").read_text() == "years of work"
    assert (place.prefix / "share" / "greeting.txt").exists()


def test_an_unfinished_forced_install_is_completed_without_emptying_the_folder(greeting: Path, place: Place) -> None:
    place.prefix.mkdir()
    (place.prefix / "thesis.txt").write_text("years of work")
    place.install(greeting, force=True)
    journal = read_journal(place.prefix)
    assert journal is not None
    assert not journal.created
    (place.prefix / "share" / "greeting.txt").write_text("half")
    write_journal(place.prefix, journal.at("planned"))
    assert place.install(greeting).outcome == "completed"
    assert (place.prefix / "thesis.txt").read_text() == "years of work"
    assert (place.prefix / "share" / "greeting.txt").read_text().startswith("hello")


def test_an_empty_folder_is_taken(greeting: Path, place: Place) -> None:
    place.prefix.mkdir()
    assert place.install(greeting).outcome == "installed"


def test_a_file_in_the_place_of_the_prefix_is_refused(greeting: Path, place: Place) -> None:
    place.prefix.write_text("")
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.code == "prefix-not-a-folder"


def test_a_damaged_journal_is_named_and_not_guessed_at(greeting: Path, place: Place) -> None:
    place.install(greeting)
    path = journal_path(place.prefix)
    path.write_text(path.read_text().replace("verified", "almost"))
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.code == "journal-damaged"
    assert str(path) in caught.value.message
    assert "almost" in caught.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="links require a privilege")
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
@pytest.mark.parametrize(
    "name", [".envforge", "conda-meta", ".envforge/holder", ".envforge/writers", ".envforge/lock",
             ".envforge/conda-lock.yml", "conda-meta/history", "conda-meta/greeting-1.0-0.json"],
)  # fmt: skip
def test_record_that_is_a_link_or_a_pipe_is_refused(
    greeting: Path, place: Place, tmp_path: Path, name: str, kind: str
) -> None:
    place.install(greeting)
    planted, mine = place.prefix / name, tmp_path / "mine"
    if planted.exists():
        planted.rename(mine)
    else:
        mine.write_text("mine")
    before = tree(mine) if mine.is_dir() else mine.read_text()
    if kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.symlink_to(mine if kind == "link" else tmp_path / "absent")
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting, reread=True)
    assert caught.value.code in {"record-damaged", "prefix-foreign"}
    assert (tree(mine) if mine.is_dir() else mine.read_text()) == before
    assert not (tmp_path / "absent").exists()


def test_a_failed_fetch_leaves_a_finished_prefix_as_it_was(
    greeting: Path, place: Place, lock: LockWriter, channel: Channel, server: Loopback, tmp_path: Path
) -> None:
    place.install(greeting)
    before = tree(place.prefix)
    other = lock.conda(channel.packages["extra"]).write(tmp_path / "other.yml")
    with pytest.raises(EnvforgeError):
        place.install(other, offline=True)
    assert tree(place.prefix) == before
    assert unfinished(place.prefix) is None
    assert place.install(greeting).outcome == "unchanged"


def test_a_wheel_of_which_half_was_written_is_made_whole(lock: LockWriter, channel: Channel, place: Place) -> None:
    lock.conda(*(channel.packages[name] for name in ("python", "jinja2", "markupsafe", "greeting")))
    lock.wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    written = lock.write(place.folder / "conda-lock.yml")
    place.install(written)
    site = place.prefix / SITE_PACKAGES
    whole = tree(site)
    (site / "tool-1.0.dist-info" / "RECORD").unlink()
    (site / "tool" / "__init__.py").unlink()
    (site / "tool" / "__init__.py").write_text("half = ")
    journal = read_journal(place.prefix)
    assert journal is not None
    write_journal(place.prefix, journal.at("conda done"))
    progress = Noted()
    report = place.install(written, progress)
    assert (report.outcome, report.linked) == ("completed", ("tool 1.0",))
    assert tree(site) == whole
    assert "linking" not in progress.steps


def test_an_unfinished_prefix_says_which_step_it_reached(tmp_path: Path) -> None:
    journal = Journal(step="conda done", fingerprint="x", lockfile="l", platform="linux-64", created=True)
    assert unfinished(tmp_path) is None
    write_journal(tmp_path, journal)
    assert unfinished(tmp_path) == "conda done"
    write_journal(tmp_path, journal.at("verified"))
    assert unfinished(tmp_path) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> str:
    """The beginning of a shell script in whose namespace ``disk`` is a disk of 6 MB."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    (tmp_path / "disk").mkdir()
    return f"mount -t tmpfs -o size=6m none {tmp_path}/disk\n"


def _in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "-rm", "sh", "-c", script]
    return subprocess.run(words, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_a_disk_that_fills_up_stops_with_an_error_and_the_next_install_completes_it(
    small_disk: str, tmp_path: Path
) -> None:
    channel = Channel(tmp_path / "own")
    channel.add(text_package("many", "1.0", {f"share/{number}": "text" for number in range(60)}))
    with Loopback(channel.folder) as server:
        lock = LockWriter(server.url).conda(*channel.packages.values()).write(tmp_path / "conda-lock.yml")
        prefix = tmp_path / "disk" / "prefix"
        install = f"'{sys.executable}' -m envforge install {lock} --prefix {prefix} --cache {tmp_path}/cache"
        done = _in_namespace(  # it lacks room for the number of files, because their size is checked before
            f"""{small_disk.replace("=6m", "=6m,nr_inodes=40")}
            {install}; echo "first $?"
            grep -c '"step": "planned"' {prefix}/.envforge/journal.json
            mount -o remount,nr_inodes=1000 {tmp_path}/disk
            {install}; echo "second $?"
            ls {prefix}/share | wc -l
            """
        )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["first 3", "1"], done.stderr
    assert "No space left on device" in done.stderr
    assert lines[2].startswith("completed 1 package"), done.stdout
    assert lines[3:] == ["second 0", "60"]


def test_a_disk_without_room_is_noticed_before_the_prefix_is_touched(
    small_disk: str, lock: LockWriter, channel: Channel, tmp_path: Path
) -> None:
    written = lock.conda(channel.packages["python"]).write(tmp_path / "conda-lock.yml")
    disk = tmp_path / "disk"
    install = f"'{sys.executable}' -m envforge install {written} --prefix {disk}/prefix"
    done = _in_namespace(
        f"""{small_disk}
        {install} --cache {tmp_path}/cache; echo "prefix $?"; ls -A {disk}
        {install} --cache {disk}/cache; echo "cache $?"; ls -A {disk}
        """
    )
    assert done.stdout.splitlines() == ["prefix 3", "cache 3", "cache"], done.stderr
    assert "to copy the packages into the environment" in done.stderr
    assert (
        f"not enough disk space for `{channel.packages['python'].path.name}` in the cache `{disk}/cache`" in done.stderr
    )


def test_prefix_that_cannot_be_written_is_named(lock: LockWriter, channel: Channel, place: Place) -> None:
    lockfile = lock.conda(channel.packages["greeting"]).write(place.folder / "conda-lock.yml")
    (place.folder / "file").write_text("")
    with pytest.raises(EnvforgeError, match="cannot write to the environment") as caught:
        place.install(lockfile, prefix=place.folder / "file" / "prefix")
    assert caught.value.code == "prefix-unwritable"
