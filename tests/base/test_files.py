"""Test that files are replaced atomically, through links, and with the mode that the umask allows."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from envforge.base.files import regular, replacing, write_atomic
from envforge.errors import OutsideError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_document_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as stream:
        stream.truncate(64_000_001)
    with pytest.raises(OSError, match="larger than 64 MB"):
        regular(path)


def test_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "folder" / "new", "text\n")
        write_atomic(tmp_path / "old", b"1")
        (tmp_path / "old").chmod(0o600)
        write_atomic(tmp_path / "old", b"2")
    finally:
        os.umask(old)

    assert (mode(tmp_path / "folder" / "new"), mode(tmp_path / "old")) == (0o640, 0o600)
    assert (tmp_path / "old").read_bytes() == b"2"


@pytest.mark.skipif(sys.platform == "win32", reason="links require a privilege")
def test_link_is_written_through_unless_told_otherwise(tmp_path: Path) -> None:
    target, link = tmp_path / "shared" / "conda-lock.yml", tmp_path / "conda-lock.yml"
    link.symlink_to(target)

    write_atomic(link, "through")
    assert (link.is_symlink(), target.read_text()) == (True, "through")

    write_atomic(link, "replaced", through_links=False)
    assert (link.is_symlink(), link.read_text(), target.read_text()) == (False, "replaced", "through")


@pytest.mark.skipif(sys.platform == "win32", reason="links require a privilege")
def test_link_at_the_name_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".file.guessed").symlink_to("victim")

    with pytest.raises(OutsideError, match="cannot write"):
        write_atomic(tmp_path / "file", "text")
    assert (tmp_path / "victim").read_text() == "mine"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "file") as stream:
            stream.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutsideError, match="No space left"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_directory_in_place_of_a_file_is_an_outside_error(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="cannot write"):
        write_atomic(tmp_path, "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutsideError, match=r"cannot create the directory `.*file`"):
        write_atomic(tmp_path / "file" / "below", "text")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write_atomic, args=(tmp_path / "pipe", "text"))
    writer.start()
    assert (tmp_path / "pipe").read_text() == "text"
    writer.join()
    assert (tmp_path / "pipe").is_fifo()


def test_import_is_light() -> None:
    code = "import sys, envforge.base.files; print({'filelock', 'platformdirs', 'urllib3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
