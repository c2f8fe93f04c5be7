"""An archive with a member that leads outside the package is rejected before anything is unpacked."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from envforge.errors import EnvforgeError
from envforge.lock.lockfile import LockedPackage
from envforge.lock.plan import Artifact, Digest
from envforge.prefix.archive import check_archive
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import Channel, File, Package, Written, text_package, write_package
from tests.support.loopback import Loopback
from tests.support.wheel import sha256_of


def _artifact(name: str) -> Artifact:
    package = LockedPackage(
        name="evil",
        version="1.0",
        manager="conda",
        platform="linux-64",
        url=f"https://conda.example/{name}",
        sha256="0" * 64,
        md5=None,
        category="main",
        optional=False,
        dependencies=(),
    )
    return Artifact(package=package, digest=Digest(algorithm="sha256", hex="0" * 64))


def _member(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


EVIL = {
    "parent": _member("../outside.txt"),
    "inner parent": _member("share/../../outside.txt"),
    "absolute": _member("/etc/outside.txt"),
    "backslash parent": _member("share\\..\\..\\outside.txt"),
    "drive": _member("C:/outside.txt"),
    "symlink up": _member("share/link", type=tarfile.SYMTYPE, linkname="../../outside"),
    "symlink absolute": _member("share/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink up": _member("link", type=tarfile.LNKTYPE, linkname="../outside"),
    "hardlink absolute": _member("link", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": _member("null", type=tarfile.CHRTYPE),
    "pipe": _member("pipe", type=tarfile.FIFOTYPE),
}


def _write(path: Path, members: list[tarfile.TarInfo]) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:bz2" if path.suffix == ".bz2" else "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b""))
    if path.suffix == ".bz2":
        path.write_bytes(stream.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        outer.writestr("pkg-evil.tar.zst", zstandard.compress(stream.getvalue()))
    return path


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_a_member_that_leaves_the_package_is_refused(tmp_path: Path, kind: str, extension: str) -> None:
    path = _write(tmp_path / f"evil-1.0-0{extension}", [_member("share/good.txt"), EVIL[kind]])
    with pytest.raises(EnvforgeError) as caught:
        check_archive(path, _artifact(path.name))
    assert caught.value.code == "archive-refused"
    assert EVIL[kind].name in caught.value.message


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_links_that_stay_inside_are_accepted(tmp_path: Path, extension: str) -> None:
    inside = _member("lib/a/link", type=tarfile.SYMTYPE, linkname="../b")
    same = _member("link", type=tarfile.LNKTYPE, linkname="lib/b")
    dots = _member("lib/..name/x..y")
    path = _write(tmp_path / f"good-1.0-0{extension}", [_member("lib/b"), inside, same, dots])
    check_archive(path, _artifact(path.name))


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py"])
def test_a_wheel_with_a_member_that_leaves_it_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil-1.0.dist-info/RECORD", "")
        archive.writestr(name, "")
    with pytest.raises(EnvforgeError, match="is a path outside the package"):
        check_archive(path, _artifact(path.name))


def test_a_wheel_with_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    member = zipfile.ZipInfo("link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil-1.0.dist-info/RECORD", "")
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(EnvforgeError, match="is a link"):
        check_archive(path, _artifact(path.name))


def test_a_list_of_files_that_names_one_outside_is_refused(tmp_path: Path) -> None:
    document = {"paths": [{"_path": "../../outside", "path_type": "hardlink"}], "paths_version": 1}
    package = text_package("evil", "1.0", {"share/a": "a"}, info={"paths.json": json.dumps(document).encode()})
    path = write_package(package, tmp_path / "evil-1.0-0.conda").path
    with pytest.raises(EnvforgeError) as caught:
        check_archive(path, _artifact(path.name))
    assert "../../outside" in caught.value.message


def test_a_program_name_that_leaves_the_prefix_is_refused(tmp_path: Path) -> None:
    package = Package(name="evil", version="1.0", noarch="python", subdir="noarch", entry_points=("../../x = a:b",))
    path = write_package(package, tmp_path / "evil-1.0-0.conda").path
    with pytest.raises(EnvforgeError) as caught:
        check_archive(path, _artifact(path.name))
    assert caught.value.code == "archive-refused"


def test_a_file_that_is_no_archive_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "evil-1.0-0.conda"
    path.write_bytes(b"not a zip")
    with pytest.raises(EnvforgeError) as caught:
        check_archive(path, _artifact(path.name))
    assert caught.value.code == "archive-damaged"
    assert path.name in caught.value.message


def test_an_install_of_a_refused_archive_leaves_nothing(
    server: Loopback, channel: Channel, place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "evil"
    evil = Channel(folder)
    evil.add(Package(name="evil", version="1.0", files=(File(path="share/link", link_to="../../../outside"),)))
    with Loopback(folder) as other:
        lock = LockWriter(other.url).conda(evil.packages["evil"]).write(tmp_path / "conda-lock.yml")
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock)
    assert caught.value.code == "archive-refused"
    assert not place.prefix.exists()
    assert not list((place.cache / "files").rglob("*.conda*[!k]"))


def test_a_wheel_without_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil.py", "")
    with pytest.raises(EnvforgeError, match="RECORD") as caught:
        check_archive(path, _artifact(path.name))
    assert caught.value.code == "archive-damaged"


@pytest.mark.parametrize("index", [None, "{", '{"name": 7}'])
def test_an_archive_without_a_readable_record_does_not_touch_the_prefix(
    tmp_path: Path, place: Place, index: str | None
) -> None:
    folder = tmp_path / "channel" / "linux-64"
    folder.mkdir(parents=True)
    info = io.BytesIO()
    with tarfile.open(fileobj=info, mode="w") as archive:
        if index is not None:
            member = tarfile.TarInfo("info/index.json")
            member.size = len(index)
            archive.addfile(member, io.BytesIO(index.encode()))
    path = folder / "evil-1.0-0.conda"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        outer.writestr("pkg-evil-1.0-0.tar.zst", zstandard.compress(info.getvalue()[:0] + b"\0" * 1024))
        outer.writestr("info-evil-1.0-0.tar.zst", zstandard.compress(info.getvalue()))
    package = Package(name="evil", version="1.0")
    written = Written(package=package, path=path, size=path.stat().st_size, sha256=sha256_of(path), md5="0" * 32)
    lock = LockWriter(folder.parent.as_uri()).conda(written).write(tmp_path / "conda-lock.yml")
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock)
    assert caught.value.code == "archive-damaged"
    assert "evil-1.0-0.conda" in caught.value.message
    assert not place.prefix.exists()
