"""An install keeps what it promises: files that wheels replaced, editable installs, and moved environments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.prefix.audit import AuditRequest, audit
from envforge.prefix.journal import read_journal
from envforge.prefix.locate import ChosenEnvironment, check_usable
from envforge.prefix.own_files import editable_command
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel, text_package
from tests.support.wheel import text_wheel


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path) -> Place:
    """A place with a cache of the module, for Python is unpacked once."""
    return Place(tmp_path, cache)


def _drift(place: Place) -> list[tuple[str, str]]:
    report = audit(AuditRequest(prefix=place.prefix, platform=SUBDIR))
    return [(found.kind, found.path or found.package) for found in report.drift]


@pytest.fixture
def shared(channel: Channel, tmp_path: Path, lock: LockWriter) -> tuple[Path, Path]:
    """Lockfiles with and without a wheel that replaces a file of a conda package."""
    own = Channel(tmp_path / "own")
    own.add(
        text_package("owner", "1.0", {f"{SITE_PACKAGES}/both/a.py": "conda\n", f"{SITE_PACKAGES}/both/b.py": "b\n"})
    )
    wheels = own.folder / "wheels"
    wheels.mkdir()
    wheel = text_wheel("both", "1.0", {"both/a.py": "wheel\n", "both/c.py": "c\n"}, wheels)
    lock.conda(channel.packages["python"])
    lock.rows += LockWriter(own.folder.as_uri()).conda(own.packages["owner"]).rows
    without = lock.write(tmp_path / "without.yml")
    lock.rows += LockWriter(own.folder.as_uri()).wheel(wheel).rows
    return lock.write(tmp_path / "with.yml"), without


def test_file_of_conda_comes_back_when_the_wheel_leaves(shared: tuple[Path, Path], here: Place) -> None:
    both, without = shared
    site = here.prefix / SITE_PACKAGES / "both"
    here.install(both)
    assert (site / "a.py").read_text() == "wheel\n"
    report = here.install(without)
    assert (report.linked, report.removed) == (("owner 1.0",), ("both",))
    assert (site / "a.py").read_text() == "conda\n"
    assert (site / "b.py").read_text() == "b\n"
    assert not (site / "c.py").exists()
    assert _drift(here) == []


def test_wheel_stays_when_the_conda_package_leaves(shared: tuple[Path, Path], here: Place, tmp_path: Path) -> None:
    both, _ = shared
    here.install(both)

    rows = [row for row in yaml.safe_load(both.read_text())["package"] if row["name"] != "owner"]
    here.install(LockWriter("", rows=rows).write(tmp_path / "wheel.yml"))
    site = here.prefix / SITE_PACKAGES / "both"
    assert (site / "a.py").read_text() == "wheel\n"
    assert not (site / "b.py").exists()
    assert _drift(here) == []


EDITABLE = """{"url": "file:///home/me/mine", "dir_info": {"editable": true}}"""


def _add_editable(place: Place, name: str = "mine") -> Path:
    info = place.prefix / SITE_PACKAGES / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text("pip\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "direct_url.json").write_text(EDITABLE)
    (info.parent / f"{name}.pth").write_text("/home/me/mine\n")
    rows = [f"{info.name}/{path}" for path in ("INSTALLER", "METADATA", "direct_url.json", "RECORD")]
    (info / "RECORD").write_text("".join(f"{row},,\n" for row in (*rows, f"{name}.pth")))
    return info


@pytest.fixture
def tools(lock: LockWriter, channel: Channel, tmp_path: Path) -> tuple[Path, Path]:
    lock.conda(channel.packages["python"])
    plain = lock.write(tmp_path / "plain.yml")
    lock.wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    return plain, lock.write(tmp_path / "tool.yml")


def test_editable_install_is_kept_and_named(tools: tuple[Path, Path], here: Place) -> None:
    plain, tool = tools
    here.install(plain)
    info = _add_editable(here)
    for lockfile, outcome in ((plain, "unchanged"), (tool, "updated"), (plain, "updated")):
        progress = Noted()
        report = here.install(lockfile, progress)
        assert report.outcome == outcome
        assert any("kept the editable install of `mine` (`file:///home/me/mine`)" in note for note in progress.notes)
        assert info.is_dir()


def test_editable_install_of_a_locked_wheel_is_replaced(tools: tuple[Path, Path], here: Place) -> None:
    _, tool = tools
    here.install(tool)
    subprocess.run(["rm", "-r", str(here.prefix / SITE_PACKAGES / "tool-1.0.dist-info")], check=True)
    info = _add_editable(here, "tool")
    progress = Noted()
    assert here.install(tool, progress).linked == ("tool 1.0",)
    assert not info.exists()
    assert any("the locked wheel of `tool` replaces the editable install" in note for note in progress.notes)


def test_editable_install_is_named_when_the_environment_is_created_again(
    tools: tuple[Path, Path], here: Place, tmp_path: Path
) -> None:
    plain, _ = tools
    here.install(plain)
    _add_editable(here)
    moved = Place(here.folder / "moved", here.shared_cache)
    shutil.copytree(here.prefix, moved.prefix, symlinks=True)
    progress = Noted()
    moved.install(plain, progress)
    (note,) = (note for note in progress.notes if "which removes the editable install of `mine`" in note)
    again = f"uv pip install --python {moved.prefix}/bin/python --no-deps -e /home/me/mine"
    assert note.endswith(f"to install it again, run `{again}`")
    assert editable_command(
        tmp_path / "new" / ".conda", f"{tmp_path.as_uri()}/old/lib", str(tmp_path / "old" / ".conda"), has_pip=True
    ) == (f"envforge run --prefix {tmp_path}/new/.conda -- python -m pip install --no-deps -e {tmp_path}/new/lib")


def test_own_files_are_kept_and_named_when_the_environment_is_created_again(
    tools: tuple[Path, Path], here: Place, tmp_path: Path
) -> None:
    _, tool = tools
    here.install(tool)
    own = {"mydata.txt": "keep", "share/own/notes": "two", f"{SITE_PACKAGES}/mine.py": "MINE = 1\n"}
    for path, text in own.items():
        (here.prefix / path).parent.mkdir(parents=True, exist_ok=True)
        (here.prefix / path).write_text(text)
    (here.prefix / "loop").symlink_to("mydata.txt")
    before = tree(here.prefix)
    moved = Place(tmp_path / "proj2", here.shared_cache)
    moved.folder.mkdir()
    here.prefix.rename(moved.prefix)
    progress = Noted()
    moved.install(tool, progress)
    assert {path: (moved.prefix / path).read_text() for path in own} == own
    assert tree(moved.prefix).keys() == before.keys()
    assert f"kept files that belong to no package: {', '.join(sorted([*own, 'loop']))}" in progress.notes


def test_moved_environment_is_detected_and_repaired(tools: tuple[Path, Path], here: Place, tmp_path: Path) -> None:
    _, tool = tools
    here.install(tool)
    moved = Place(tmp_path / "proj2", here.shared_cache)
    moved.folder.mkdir()
    here.prefix.rename(moved.prefix)
    meant = ChosenEnvironment(prefix=moved.prefix, option="")
    for use in (lambda: check_usable(meant), lambda: audit(AuditRequest(prefix=moved.prefix, platform=SUBDIR))):
        with pytest.raises(EnvforgeError) as caught:
            use()
        assert caught.value.code == "prefix-moved"
        assert str(here.prefix) in caught.value.message
    assert moved.install(tool).outcome == "updated"
    check_usable(meant)
    assert subprocess.run([moved.prefix / "bin/tool"], capture_output=True, check=True).stdout == b"tool at work\n"
    assert moved.install(tool).outcome == "unchanged"


def test_environment_behind_a_link_was_not_moved(tools: tuple[Path, Path], here: Place, tmp_path: Path) -> None:
    plain, _ = tools
    here.install(plain)
    (tmp_path / "link").symlink_to(here.prefix)
    check_usable(ChosenEnvironment(prefix=tmp_path / "link", option=""))
    assert here.install(plain, prefix=tmp_path / "link").outcome == "unchanged"


def test_lockfile_behind_a_link_is_installed(tools: tuple[Path, Path], here: Place, tmp_path: Path) -> None:
    plain, _ = tools
    (tmp_path / "link.yml").symlink_to(plain)
    here.install(tmp_path / "link.yml")
    before = tree(here.prefix)
    assert here.install(tmp_path / "link.yml").outcome == "unchanged"
    assert tree(here.prefix) == before
    assert _drift(here) == []


@pytest.mark.parametrize("text", ["{}", "null", "[", "\xff", '{"name": 7}'])
def test_invalid_record_of_conda_is_named(tools: tuple[Path, Path], here: Place, text: str) -> None:
    plain, tool = tools
    here.install(plain)
    fake = here.prefix / "conda-meta" / "fake-1.0-0.json"
    fake.write_bytes(text.encode("latin1"))
    for use in (lambda: here.install(tool), lambda: _drift(here)):
        with pytest.raises(EnvforgeError) as caught:
            use()
        assert caught.value.code == "record-damaged"
        assert caught.value.exit_code == 1
        assert str(fake) in caught.value.message


def test_repair_creates_a_moved_environment_again(
    tools: tuple[Path, Path], here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tool = tools
    project = tmp_path / "proj"
    project.mkdir()
    shutil.copy(tool, project / "conda-lock.yml")
    here.install(project / "conda-lock.yml", prefix=project / ".conda")
    project.rename(tmp_path / "proj2")
    monkeypatch.chdir(tmp_path / "proj2")
    monkeypatch.setenv("ENVFORGE_CACHE", str(here.cache))
    assert main(["run", "tool"]) == 1
    assert main(["audit"]) == 1
    assert main(["audit", "--fix", "--offline"]) == 0
    assert subprocess.run([".conda/bin/tool"], capture_output=True, check=True).stdout == b"tool at work\n"
    journal = read_journal(tmp_path / "proj2" / ".conda")
    assert journal is not None
    assert journal.lockfile == str(tmp_path / "proj2" / "conda-lock.yml")


def test_uninstall_deletes_nothing_outside(tools: tuple[Path, Path], here: Place) -> None:
    plain, tool = tools
    here.install(tool)
    mine = here.folder / "mine.txt"
    mine.write_text("mine\n")
    record = here.prefix / SITE_PACKAGES / "tool-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + "../../../../mine.txt,,\n")
    with pytest.raises(EnvforgeError) as caught:
        here.install(plain)
    assert (caught.value.code, caught.value.exit_code) == ("record-damaged", 1)
    assert "mine.txt" in caught.value.message
    assert mine.exists()


def test_conda_package_that_leaves_deletes_nothing_outside(here: Place, tmp_path: Path) -> None:
    own = Channel(tmp_path / "own")
    own.add(text_package("one", "1.0", {"etc/one.txt": "1"}), text_package("two", "1.0", {"share/two.txt": "2"}))
    lock = LockWriter(own.folder.as_uri()).conda(own.packages["one"])
    one = lock.write(tmp_path / "one.yml")
    here.install(lock.conda(own.packages["two"]).write(tmp_path / "both.yml"))
    mine = tmp_path / "mine"
    (here.prefix / "share").rename(mine)
    (here.prefix / "share").symlink_to(mine)
    with pytest.raises(EnvforgeError) as caught:
        here.install(one)
    assert caught.value.code == "record-damaged"
    assert (mine / "two.txt").exists()
