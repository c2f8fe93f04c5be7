"""A package can't write, link, or delete anything outside the prefix, whatever its archive contains."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import zstandard
from msgspec.structs import replace

from envforge.base.files import current_umask
from envforge.errors import EnvforgeError
from envforge.lock.plan import make_plan, read_any_lock
from envforge.prefix import apply as apply_module
from envforge.prefix import conda_packages
from envforge.prefix import wheels as wheels_module
from envforge.prefix.journal import read_journal
from envforge.prefix.package_checks import check_path
from envforge.prefix.wheels import Batch
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import SITE_PACKAGES, Channel, File, Package, Written, text_package, write_package
from tests.support.wheel import sha256_of, text_wheel

Member = tuple[tarfile.TarInfo, bytes]
REFUSED = {"archive-refused", "archive-damaged", "archive-differs"}


def _member(name: str, data: bytes = b"", **fields: Any) -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def _symlink(name: str, target: str) -> Member:
    return _member(name, type=tarfile.SYMTYPE, linkname=target)


def _hardlink(name: str, target: str) -> Member:
    return _member(name, type=tarfile.LNKTYPE, linkname=target)


def _listed(*paths: str, kind: str = "hardlink") -> bytes:
    rows = [{"_path": path, "path_type": kind} for path in paths]
    return json.dumps({"paths": rows, "paths_version": 1}).encode()


def _holds(placeholder: str, mode: str) -> bytes:
    row = {"_path": "a", "path_type": "hardlink", "prefix_placeholder": placeholder, "file_mode": mode}
    return json.dumps({"paths": [row], "paths_version": 1}).encode()


def _index(**changes: object) -> Member:
    return _member("info/index.json", json.dumps(Package(name="evil", version="1.0").index() | changes).encode())


_NOARCH = _index(noarch="python", subdir="noarch")


def _points(*points: str) -> bytes:
    noarch = {"type": "python", "entry_points": points}
    return json.dumps({"noarch": noarch, "package_metadata_version": 1}).encode()


def _tar(members: list[Member]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _write(folder: Path, members: list[Member], extension: str, stem: str = "evil-1.0-0") -> Written:
    """Write an archive with exactly these members below ``folder``, which is a channel."""
    path = folder / "linux-64" / f"{stem}{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if extension == ".tar.bz2":
        path.write_bytes(bz2.compress(_tar(members)))
    else:
        with zipfile.ZipFile(path, "w") as outer:
            outer.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            for part in ("pkg", "info"):
                chosen = [each for each in members if ("info" in each[0].name.split("/")) == (part == "info")]
                outer.writestr(f"{part}-{stem}.tar.zst", zstandard.compress(_tar(chosen)))
    package = Package(name="evil", version="1.0")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Written(package=package, path=path, size=path.stat().st_size, sha256=sha256_of(path), md5=md5)


def _lock(folder: Path, *written: Written) -> Path:
    return LockWriter(folder.as_uri()).conda(*written).write(folder.parent / "conda-lock.yml")


LIST = "info/paths.json"
OUTSIDE = "../outside.txt"
# each variant would make rattler write, link, or read outside the prefix, or in the directories of the records
ATTACKS: dict[str, list[Member]] = {
    "list": [_index(), _member(LIST, _listed(OUTSIDE)), _member("outside.txt", b"x")],
    "list with a dot": [_index(), _member(f"./{LIST}", _listed(OUTSIDE))],
    "list with two slashes": [_index(), _member("info//paths.json", _listed(OUTSIDE))],
    "list that is a link": [_index(), _member("info/real.json", _listed(OUTSIDE)), _symlink(LIST, "real.json")],
    "list that is a hard link": [
        _index(),
        _member("info/real.json", _listed(OUTSIDE)),
        _hardlink(LIST, "info/real.json"),
    ],
    "list twice": [_index(), _member(LIST, _listed("a")), _member(LIST, _listed(OUTSIDE)), _member("a")],
    "list in an array": [
        _index(),
        _member(LIST, json.dumps([[{"_path": OUTSIDE, "path_type": "softlink"}], 1]).encode()),
    ],
    "older list": [_index(), _member("info/files", f"{OUTSIDE}\n".encode())],
    "list of an absolute path": [_index(), _member(LIST, _listed("/tmp/outside.txt"))],
    "list of a directory": [_index(), _member(LIST, _listed("../outside", kind="directory"))],
    "list up and down": [_index(), _member(LIST, _listed("share/../../outside.txt")), _member("share/a", b"x")],
    "list of nothing": [_index(), _member(LIST, _listed(""))],
    "list of a NUL": [_index(), _member(LIST, _listed("a\0b"))],
    "list of conda's records": [
        _index(),
        _member(LIST, _listed("conda-meta/fake-1.0-0.json")),
        _member("conda-meta/fake-1.0-0.json", b"{}"),
    ],
    "list of envforge's records": [
        _index(),
        _member(LIST, _listed(".envforge/journal.json")),
        _member(".envforge/journal.json", b"{}"),
    ],
    "list of a missing file": [_index(), _member(LIST, _listed("share/missing"))],
    "link up": [_index(), _member(LIST, _listed("share/l")), _symlink("share/l", "../../outside")],
    "absolute link": [_index(), _member(LIST, _listed("share/l")), _symlink("share/l", "/etc")],
    "link over two links": [
        _index(),
        _member(LIST, _listed("a/b/up", "s")),
        _member("a/b/x", b"x"),
        _symlink("a/b/up", "../.."),
        _symlink("s", "a/b/up/../outside"),
    ],
    "hard link to a link": [
        _index(),
        _member(LIST, _listed("a/b/l", "l")),
        _member("target/x", b"x"),
        _symlink("a/b/l", "../../target"),
        _hardlink("l", "a/b/l"),
    ],
    "hard link up": [_index(), _member(LIST, _listed("l")), _hardlink("l", "../outside")],
    "file through a link": [_index(), _member(LIST, _listed("l/x")), _symlink("l", ".."), _member("l/x", b"x")],
    "link to the records": [
        _index(),
        _member(LIST, _listed("l", "l2/x")),
        _symlink("l", "conda-meta"),
        _member("l2/x", b"x"),
    ],
    "metadata that is a device": [_index(), _symlink(LIST, "/dev/zero")],
    "program up": [
        _index(noarch="python", subdir="noarch"),
        _member(LIST, _listed()),
        _member("info/link.json", _points("../../x = a:b")),
    ],
    "absolute program": [
        _index(noarch="python", subdir="noarch"),
        _member(LIST, _listed()),
        _member("info/link.json", _points("/tmp/x = a:b")),
    ],
    "programs in an array": [
        _index(noarch="python", subdir="noarch"),
        _member(LIST, _listed()),
        _member("info/link.json", b'[{"type": "python", "entry_points": ["../x = a:b"]}, 1]'),
    ],
    "program on two lines": [
        _index(noarch="python", subdir="noarch"),
        _member(LIST, _listed()),
        _member("info/link.json", _points("x\ny = a:b")),
    ],
    "program without a function": [
        _index(noarch="python", subdir="noarch"),
        _member(LIST, _listed()),
        _member("info/link.json", _points("x")),
    ],
    **{
        f"programs {number}": [_NOARCH, _member(LIST, _listed()), _member("info/link.json", text)]
        for number, text in enumerate(
            [
                b'{"noarch": {"type": "python", "entry_points": null}, "package_metadata_version": 1}',
                b'{"noarch": {"type": "generic"}, "package_metadata_version": 1}',
                b'{"noarch": {"type": "python"}, "package_metadata_version": "1"}',
                '{"noarch": {"type": "python"}, "package_metadata_version": 1}'.encode("utf-16"),
                _points("x = a-b:c"),
                _points("x = .:c"),
                _points("x" * 201 + " = a:b"),
            ]
        )
    },
    "placeholder in a link": [
        _index(),
        _member(LIST, _holds("/placeholder", "text").replace(b"hardlink", b"softlink")),
        _symlink("a", "d"),
        _member("d/x"),
    ],
    "file of rattler": [_index(), _member(LIST, _listed("__clobbers__")), _member("__clobbers__")],
    "name in capitals": [_index(name="EVIL"), _member(LIST, _listed())],
    "file as a link": [_index(), _member(LIST, _listed("a", kind="softlink")), _member("a")],
    "link to nothing as a file": [_index(), _member(LIST, _listed("a")), _symlink("a", "b")],
    "path in an extended header": [
        _index(),
        _member(LIST, _listed("a")),
        _member("a", pax_headers={"path": "../outside.txt"}),
    ],
    "list in an extended header": [
        _index(),
        _member("info/x", _listed(OUTSIDE), pax_headers={"path": LIST}),
    ],
    "metadata in a link": [_symlink("info", "x"), _member("x/index.json"), _member("x/paths.json", _listed(OUTSIDE))],
    "listed metadata": [_index(), _member(LIST, _listed("info/about.json")), _member("info/about.json", b"{}")],
    "list of a missing directory": [_index(), _member(LIST, _listed("data/new", kind="directory"))],
    "list of a directory in it": [_index(), _member(LIST, _listed("d", kind="directory")), _member("d/a")],
    **{
        f"list of a as {text!r}": [_index(), _member(LIST, _listed("x").replace(b'"x"', text)), _member("a")]
        for text in (rb'"a/"', rb'"a\/"', rb'"a\u002f"', rb'"\u0061/"', rb'"a/."', rb'"./a"', rb'"a//"')
    },
    "slash at the end in an array": [_index(), _member(LIST, b'[[["a/", "hardlink"]], 1]'), _member("a")],
    "slash at the end in the older list": [_index(), _member("info/files", b"a/\n"), _member("a")],
    "link as a file": [_index(), _member(LIST, _listed("a", "b")), _symlink("a", "b"), _member("b")],
    **{
        f"placeholder {text!r} {mode}": [_index(), _member(LIST, _holds(text, mode)), _member("a", data)]
        for text, mode, data in [
            ("a", "text", b"a"),
            ("", "text", b""),
            ("opt/relative/placeholder", "text", b""),
            ("/short", "binary", b"/short\0"),
            ("/placeholder", "text", b"/placeholder" * 100_001),
        ]
    },
    "file as a directory": [_index(), _member(LIST, _listed("a", kind="directory")), _member("a")],
    **{
        f"site-packages {path!r}": [_index(python_site_packages_path=path), _member(LIST, _listed())]
        for path in ("", "..", "lib/../..", "lib//x", "/x", "conda-meta", ".envforge/x", "C:/x", "lib\0x")
    },
    "file twice": [_index(), _member(LIST, _listed("a", "a")), _member("a")],
    "many rows": [_index(), _member(LIST, b'{"paths": [' + b"{}," * 500_000 + b'{}], "paths_version": 1}')],
    "many lines": [_index(), _member("info/files", b"a\n" * 500_001), _member("a")],
    "large list": [_index(), _member(LIST, _listed() + b" " * (1 << 25))],
    "program python": [
        _index(noarch="python"),
        _member(LIST, _listed()),
        _member("info/link.json", _points("python = evil:main")),
    ],
    "build with a hyphen": [_index(build="0-0"), _member(LIST, _listed())],
    "build up": [_index(build="0/../../../x"), _member(LIST, _listed())],
}
NO_SUBDIR = '{"name": "evil", "version": "1.0", "build": "0", "build_number": 0}'
NOT_A_LIST = (
    NO_SUBDIR,
    "null",
    "[]",
    "7",
    '{"paths": null}',
    '{"paths": [7], "paths_version": 1}',
    "[" * 100_000,
    "\xff",
    "",
)


@pytest.fixture
def outside(place: Place) -> Callable[[], dict[str, str]]:
    """What lies around the prefix, of which no package may change anything."""
    place.prefix.parent.mkdir(exist_ok=True)
    (place.folder / "outside.txt").write_text("mine\n")

    def around() -> dict[str, str]:
        return {name: held for name, held in tree(place.folder).items() if not name.startswith(("cache/", "own/"))}

    return around


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_files_of_a_package_have_the_modes_of_the_umask(place: Place, extension: str) -> None:
    modes = {"share/none": 0, "share/all": 0o666, "bin/all": 0o777, "bin/group": 0o775, "share/fixed": 0o444}
    listed = _member(LIST, _listed(*modes))
    folder = _member("share", type=tarfile.DIRTYPE, mode=0)
    members = [_index(), listed, folder, *(_member(name, b"x", mode=mode) for name, mode in modes.items())]
    place.install(_lock(place.folder / "own", _write(place.folder / "own", members, extension)))
    found = {name: oct(stat.S_IMODE((place.prefix / name).stat().st_mode)) for name in modes}
    ours = 0o666 & ~current_umask()
    program = 0o777 & ~current_umask()
    wanted = [0o444 & ours, ours, program, program, 0o444 & ours]
    assert list(found.values()) == [oct(mode) for mode in wanted]


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_package_is_refused_before_anything_changes(
    place: Place, outside: Callable[[], dict[str, str]], attack: str, extension: str
) -> None:
    lock = _lock(place.folder / "own", _write(place.folder / "own", ATTACKS[attack], extension))
    before = outside()
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock)
    assert caught.value.code in REFUSED
    assert f"evil-1.0-0{extension}" in caught.value.message
    assert outside() == before
    assert not place.prefix.exists()
    assert not list((place.cache / "files").rglob("*.conda*[!k]"))  # the next attempt downloads it again


@pytest.mark.parametrize("text", NOT_A_LIST)
@pytest.mark.parametrize("name", ["paths.json", "link.json", "index.json"])
def test_package_with_invalid_metadata_is_refused(place: Place, name: str, text: str) -> None:
    noarch = {"noarch": "python", "subdir": "noarch"}
    members = {LIST: _member(LIST, _listed()), "info/index.json": _index(**noarch)}
    members[f"info/{name}"] = _member(f"info/{name}", text.encode("latin1"))
    with pytest.raises(EnvforgeError) as caught:
        place.install(_lock(place.folder / "own", _write(place.folder / "own", list(members.values()), ".conda")))
    assert caught.value.code == "archive-damaged"
    assert caught.value.exit_code == 1
    assert not place.prefix.exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE])
def test_devices_and_pipes_become_plain_files(place: Place, kind: bytes) -> None:
    members = [_index(), _member(LIST, _listed("share/x")), _member("share/x", type=kind, devmajor=1, devminor=3)]
    place.install(_lock(place.folder / "own", _write(place.folder / "own", members, ".conda")))
    assert (place.prefix / "share" / "x").read_bytes() == b""


def test_programs_lose_the_right_to_change_the_user(place: Place) -> None:
    members = [_index(), _member(LIST, _listed("bin/x")), _member("bin/x", b"x", mode=0o6755)]
    place.install(_lock(place.folder / "own", _write(place.folder / "own", members, ".conda")))
    assert (place.prefix / "bin" / "x").stat().st_mode & 0o7777 == 0o755


def test_names_that_differ_only_in_case_are_refused_on_macos(place: Place) -> None:
    members = [_index(subdir="osx-64"), _member(LIST, _listed("share/A", "share/a"))]
    members += [_member("share/A", b"1"), _member("share/a", b"2")]
    lock = _lock(place.folder / "own", _write(place.folder / "own", members, ".conda"))
    lock.write_text(
        lock.read_text().replace("platform: linux-64", "platform: osx-64").replace("- linux-64", "- osx-64")
    )
    with pytest.raises(EnvforgeError, match="on a disk that ignores case"):
        place.install(lock, platform="osx-64")


@pytest.mark.parametrize(("one", "other"), [("share/\u00c9", "share/e\u0301"), ("share/stra\u00dfe", "share/STRASSE")])
def test_names_that_are_equal_on_macos_are_refused(place: Place, one: str, other: str) -> None:
    members = [_index(subdir="osx-64"), _member(LIST, _listed(one, other)), _member(one, b"1"), _member(other, b"2")]
    lock = _lock(place.folder / "own", _write(place.folder / "own", members, ".conda"))
    lock.write_text(lock.read_text().replace("linux-64\n", "osx-64\n"))
    with pytest.raises(EnvforgeError, match="on a disk that ignores case"):
        place.install(lock, platform="osx-64")


@pytest.mark.parametrize("name", ["conda-meta./x.json", "conda-meta /x.json", "share/x:stream"])
def test_name_that_windows_changes_is_refused(place: Place, name: str) -> None:
    members = [_index(subdir="win-64"), _member(LIST, _listed(name)), _member(name, b"{}")]
    lock = _lock(place.folder / "own", _write(place.folder / "own", members, ".conda"))
    lock.write_text(lock.read_text().replace("linux-64\n", "win-64\n"))
    with pytest.raises(EnvforgeError, match="a name that Windows changes"):
        place.install(lock, platform="win-64")


def test_wheel_can_not_leave_through_a_link_of_a_conda_package(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    own = Channel(place.folder / "own")
    own.add(Package(name="linked", version="1.0", files=(File(path="lib/a", link_to=".."), File(path="lib/x"))))
    lock.rows.extend(LockWriter(own.folder.as_uri()).conda(own.packages["linked"]).rows)
    wheel = _evil_wheel(wheels, {"evil-1.0.data/data/lib/a/conda-meta/fake-1.0-0.json": "{}"})
    assert "leads outside the environment" in _install_wheel(lock, channel, place, wheel).message


def test_files_that_uv_wrote_outside_are_reported(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install_and_record_outside(batch: Batch) -> None:
        install(batch)
        with next(batch.site.packages.glob("mine-*.dist-info/RECORD")).open("a") as stream:
            stream.write("../../../../outside.txt,,\n")

    install = wheels_module._install
    monkeypatch.setattr(wheels_module, "_install", install_and_record_outside)
    lock.conda(channel.packages["python"])
    wheel = text_wheel("mine", "1.0", {"mine/__init__.py": ""}, wheels)
    lock.rows.extend(LockWriter(wheels.parent.as_uri()).wheel(wheel).rows)
    with pytest.raises(EnvforgeError, match="leads outside the environment"):
        place.install(lock.write(place.folder / "conda-lock.yml"))
    assert read_journal(place.prefix).step != "verified"  # type: ignore[union-attr]


def test_links_that_stay_inside_are_linked(place: Place) -> None:
    files = (
        File(path="lib/b/x", data=b"x"),
        File(path="lib/a/link", link_to="../b"),
        File(path="lib/..name/x..y", data=b"y"),
    )
    channel = Channel(place.folder / "own")
    channel.add(Package(name="good", version="1.0", files=files))
    place.install(
        LockWriter(channel.folder.as_uri()).conda(*channel.packages.values()).write(place.folder / "lock.yml")
    )
    assert (place.prefix / "lib/a/link/x").read_bytes() == b"x"


def test_two_packages_can_not_leave_through_each_other_s_links(place: Place) -> None:
    channel = Channel(place.folder / "own")
    inner = (File(path="d/e/f", data=b""), File(path="d/e/up", link_to="../.."))
    channel.add(
        Package(name="one", version="1.0", files=inner),
        # inside the package, whose `d` is a directory; outside together with the link of the other
        Package(name="two", version="1.0", files=(File(path="x/out", link_to="../d/e/up/../outside"),)),
    )
    lock = _lock(channel.folder, *channel.packages.values())
    with pytest.raises(EnvforgeError, match="a link to a path outside"):
        place.install(lock)
    assert not place.prefix.exists()


def _joined(
    channel: Channel, place: Place, before: dict[str, tuple[File, ...]], after: dict[str, tuple[File, ...]]
) -> str:
    """Install the packages ``before``, then ``after`` over them, and return the error."""
    for name, files in (before | after).items():
        channel.add(Package(name=name, version="1.0", files=files))
    place.install(_lock(channel.folder, *(channel.packages[name] for name in before)))
    old = tree(place.prefix)
    with pytest.raises(EnvforgeError) as caught:
        place.install(_lock(channel.folder, *(channel.packages[name] for name in after)))
    assert tree(place.prefix) == old
    assert caught.value.code == "archive-refused"
    return caught.value.message


def test_link_that_is_removed_does_not_count(place: Place) -> None:
    stays = (File(path="l", link_to="p/q/r/../../.."), File(path="p/q/r/k"))
    goes = (File(path="p", link_to="u"), File(path="u/q/r/f"))
    comes = (File(path="p/q/r", link_to="../../t"), File(path="t/f"), File(path="l/evil.txt"))
    before = {"stays": (stays[0],), "goes": goes}
    message = _joined(Channel(place.folder / "own"), place, before, {"stays": (stays[0],), "comes": comes})
    assert "file `l` is a directory outside the environment" in message


def test_link_of_a_package_that_stays_can_not_be_made_to_leave(place: Place) -> None:
    stays = (File(path="l", link_to="p/q/r/../../.."),)
    before = {"stays": stays, "goes": (File(path="p", link_to="u"), File(path="u/q/r/f"))}
    comes = (File(path="p/q/r", link_to="../../t"), File(path="t/f"))
    message = _joined(Channel(place.folder / "own"), place, before, {"stays": stays, "comes": comes})
    assert "make `l`, a link of an installed package, lead to a path outside" in message


def test_link_that_a_package_does_not_list_is_refused(place: Place) -> None:
    # rattler wouldn't link `p`, so `l` would lead to another place than in the package
    listed = json.dumps({"paths": [File(path="l", link_to="p/../..").entry()], "paths_version": 1}).encode()
    files = (File(path="l", link_to="p/../.."), File(path="p", link_to="u/v"), File(path="u/v/k"))
    package = Package(name="evil", version="1.0", files=files, info={"paths.json": listed})
    channel = Channel(place.folder / "own")
    channel.add(package)
    with pytest.raises(EnvforgeError, match="contains the link `p`, but doesn't list it"):
        place.install(_lock(channel.folder, *channel.packages.values()))
    assert not place.prefix.exists()


def test_link_that_leads_nowhere_can_not_be_made_to_leave(place: Place) -> None:
    own = Channel(place.folder / "own")
    own.add(
        Package(name="stays", version="1.0", files=(File(path="x"),)),
        Package(name="comes", version="1.0", files=(File(path="p/q"),)),
    )
    place.install(_lock(own.folder, own.packages["stays"]))
    path = next((place.prefix / "conda-meta").glob("stays-*.json"))
    record = json.loads(path.read_text())  # as another tool would install it
    record["files"].append("l")
    record["paths_data"]["paths"].append({"_path": "l", "path_type": "softlink"})
    path.write_text(json.dumps(record))
    (place.prefix / "l").symlink_to("p/../../..")
    with pytest.raises(EnvforgeError, match="make `l`, a link of an installed package, lead to a path outside"):
        place.install(_lock(own.folder, *own.packages.values()))


@pytest.mark.parametrize("target", ["../elsewhere", "share/bin"])
def test_programs_are_not_written_through_a_link(place: Place, channel: Channel, target: str) -> None:
    python = channel.packages["python"]
    bare = replace(python.package, files=tuple(each for each in python.package.files if "bin/" not in each.path))
    own = Channel(place.folder / "own")
    points = Package(name="points", version="1.0", noarch="python", subdir="noarch", entry_points=("mine = m:f",))
    inside = (File(path="bin", link_to="share/bin"), File(path="share/bin/x"))
    is_user = target.startswith("..")
    own.add(bare, points, Package(name="links", version="1.0", files=() if is_user else inside))
    first, *others = (own.packages[name] for name in ("python", "links", "points"))
    place.install(_lock(own.folder, first))
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    if is_user:
        (place.prefix / "bin").symlink_to(elsewhere)
    before = tree(place.prefix)
    with pytest.raises(EnvforgeError, match=r"file `(python-scripts|bin)` is a directory"):
        place.install(_lock(own.folder, first, *others))
    assert tree(place.prefix) == before
    assert not list(elsewhere.iterdir())


def test_directory_that_stays_counts_like_a_link_with_its_path(place: Place) -> None:
    stays = (File(path="x/s", link_to=".."), File(path="x/f"))
    comes = (File(path="x", link_to="a/b"), File(path="a/b/s/f"))
    after = {"stays": stays, "comes": comes, "leaves": (File(path="y", link_to="x/s/../.."),)}
    message = _joined(Channel(place.folder / "own"), place, {"stays": stays}, after)
    assert "file `y` is a link to a path outside" in message


@pytest.mark.parametrize("first", ["a", "z"])
def test_each_of_two_links_with_the_same_path_counts(place: Place, first: str) -> None:
    channel = Channel(place.folder / "own")
    into = (File(path="x", link_to="lib"), File(path="lib/s/t/f"))
    out = (File(path="x", link_to="bin"), File(path="bin/s", link_to="../top"), File(path="top/t/f"))
    channel.add(
        Package(name=first, version="1.0", files=into),
        Package(name="m", version="1.0", files=out),
        Package(name="n", version="1.0", files=(File(path="y", link_to="x/s/t/../../.."),)),
    )
    with pytest.raises(EnvforgeError, match="file `y` is a link to a path outside"):
        place.install(_lock(channel.folder, *channel.packages.values()))
    assert not place.prefix.exists()


def test_package_is_not_linked_through_a_link_of_the_user(place: Place, channel: Channel) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("first", "1.0", {"etc/first.txt": "1"}), text_package("second", "1.0", {"share/x/a.txt": "2"}))
    first, second = own.packages["first"], own.packages["second"]
    place.install(LockWriter(own.folder.as_uri()).conda(first).write(place.folder / "first.yml"))
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    (place.prefix / "share").symlink_to(elsewhere)
    both = LockWriter(own.folder.as_uri()).conda(first, second).write(place.folder / "both.yml")
    with pytest.raises(EnvforgeError) as caught:
        place.install(both)
    assert caught.value.code == "archive-refused"
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("path", ["", "/x", "../x"])
def test_record_with_site_packages_outside_is_refused(place: Place, channel: Channel, path: str) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/one.txt": "1"}), text_package("python", "3.11.1", {"bin/python": ""}))
    python = own.packages["python"]
    place.install(_lock(own.folder, python))
    record = place.prefix / "conda-meta" / "python-3.11.1-0.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"python_site_packages_path": path}))
    with pytest.raises(EnvforgeError) as caught:
        place.install(_lock(own.folder, python, own.packages["one"]))
    assert caught.value.code == "record-damaged"


def test_another_package_of_the_same_name_does_not_replace_the_locked_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = Channel(place.folder / "good"), Channel(place.folder / "other")
    good.add(text_package("same", "1.0", {"share/x": "good"}))
    other.add(text_package("same", "1.0", {"share/x": "other"}))
    lock = LockWriter(good.folder.as_uri()).conda(*good.packages.values()).write(place.folder / "good.yml")
    lock_of_other = LockWriter(other.folder.as_uri()).conda(*other.packages.values()).write(place.folder / "other.yml")
    link = conda_packages.link

    def link_late(*arguments: Any) -> None:  # the other install runs between the check and the links of this one
        monkeypatch.setattr(apply_module, "link", link)
        place.install(lock_of_other, prefix=place.folder / "second")
        link(*arguments)

    monkeypatch.setattr(apply_module, "link", link_late)
    place.install(lock)
    assert (place.prefix / "share" / "x").read_text() == "good"
    assert (place.folder / "second" / "share" / "x").read_text() == "other"
    assert not list((place.cache / "pkgs").glob(".*"))
    record = json.loads((place.prefix / "conda-meta" / "same-1.0-0.json").read_text())
    assert Path(record["link"]["source"], "share", "x").read_text() == "good"
    assert record["extracted_package_dir"] == record["link"]["source"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_in_the_cache_is_replaced(place: Place, kind: str) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/one.txt": "1"}))
    (written,) = own.packages.values()
    mine, unpacked = place.folder / "mine", place.cache / "pkgs" / written.sha256 / "one-1.0-0"
    mine.mkdir()
    (mine / "x").touch()
    unpacked.parent.mkdir(parents=True)
    if kind == "link":
        unpacked.symlink_to(mine)
    else:
        unpacked.touch()
    place.install(_lock(own.folder, written))
    assert (place.prefix / "share" / "one.txt").read_text() == "1"
    assert (mine / "x").exists()


def test_package_whose_build_has_a_hyphen_is_refused(place: Place) -> None:
    written = _write(place.folder / "own", [_index(build="0-1"), _member(LIST, _listed())], ".conda", "evil-1.0-0-1")
    with pytest.raises(EnvforgeError, match="contains `-`"):
        place.install(_lock(place.folder / "own", written))
    assert not place.prefix.exists()


def test_packages_with_equal_records_are_refused(place: Place) -> None:
    one, other = Channel(place.folder / "own"), Channel(place.folder / "other")
    one.add(text_package("x", "1", {"share/1": ""}))
    other.add(text_package("x-1", "2", {"share/2": ""}))
    lock = LockWriter(one.folder.as_uri()).conda(*one.packages.values()).conda(*other.packages.values())
    lock.rows[0]["url"] = lock.rows[1]["url"]
    with pytest.raises(EnvforgeError, match="`x 1` and `x-1 2`, with the same file name `x-1-2-0`"):
        place.install(lock.write(place.folder / "conda-lock.yml"))


def test_panic_of_rattler_is_an_error_that_is_explained(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    async def panic(*_: Any) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/one.txt": "1"}))
    lock = _lock(own.folder, *own.packages.values())
    with monkeypatch.context() as patched:
        patched.setattr(conda_packages, "_link", panic)
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock, categories=("main",))
    assert caught.value.code == "link-failed"
    assert caught.value.hint == (
        f"`{place.prefix}` is incomplete; to complete it once the cause is fixed, "
        f"run `envforge install {lock} --prefix {place.prefix} --category main`"
    )
    assert place.install(lock, categories=("main",)).outcome == "completed"


PYTHON = {"bin/python3.12": ""}


@pytest.mark.parametrize(
    ("code", "python", "members", "other"),
    [
        pytest.param("no-python", None, [_NOARCH, _member(LIST, _listed())], {}, id="no Python"),
        pytest.param("no-python", "3", [_index(), _member(LIST, _listed())], {}, id="no minor version"),
        pytest.param(
            "archive-refused",
            "3.12.0",
            [
                _NOARCH,
                _member(LIST, _listed("python-scripts/x", "bin/x/y")),
                _member("python-scripts/x"),
                _member("bin/x/y"),
            ],
            {},
            id="file in place of a directory",
        ),
        *(
            pytest.param(
                "archive-refused",
                "3.12.0",
                [_NOARCH, _member(LIST, _listed()), _member("info/link.json", _points("x = a:b"))],
                {name: ""},
                id=f"program and {name}",
            )
            for name in ("bin/x/y", "bin")
        ),
        pytest.param(
            "archive-refused", "3.12.0", [_NOARCH, _member(LIST, _listed("site-packages")), _member("site-packages")],
            {}, id="site-packages",
        ),
        pytest.param(
            "prefix-unsuitable", None, [_index(), _member(LIST, _holds("/" + "x" * 39, "binary")), _member("a")],
            {}, id="long prefix",
        ),
        pytest.param("prefix-unsuitable", None, [_index(), _member(LIST, _listed("a")), _member("a")], {}, id="bytes"),
    ],
)  # fmt: skip
def test_package_that_rattler_can_not_link_changes_nothing(
    place: Place,
    request: pytest.FixtureRequest,
    code: str,
    python: str | None,
    members: list[Member],
    other: dict[str, str],
) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("other", "1.0", other))
    if python is not None:
        own.add(text_package("python", python, PYTHON))
    lock = _lock(own.folder, *own.packages.values(), _write(own.folder, members, ".conda"))
    is_utf8 = "bytes" not in request.node.name
    prefix = place.folder / ("x" * 40 if is_utf8 else os.fsdecode(b"\xff"))
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock, prefix=prefix)
    assert caught.value.code == code
    assert not prefix.exists()


_HEX = b"a" * 64


@pytest.mark.parametrize(
    ("end", "content"),
    [
        ("unpacked", b"envforge unpacked 2 " + b"9" * 4000 + b" SHA 5\n\n"),
        ("unpacked", b"envforge unpacked 2 5 SHA " + b"9" * 4000 + b"\n\n"),
        ("unpacked", b"envforge unpacked 2 -5 SHA -5\n\n"),
        ("unpacked", b"envforge unpacked 2 5 zz 5\n\n"),
        ("unpacked", b"envforge unpacked 2 5 " + _HEX + b" 5\n\n"),
        ("unpacked", None),
        ("seen", None),
    ],
)
def test_invalid_note_in_the_cache_is_ignored(place: Place, end: str, content: bytes | None) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/one.txt": "1"}))
    (written,) = own.packages.values()
    lock = _lock(own.folder, written)
    place.install(lock)
    note = next((place.cache / "files").rglob("*.unpacked")).with_suffix(f".{end}")
    note.unlink(missing_ok=True)
    if content is not None:
        note.write_bytes(content.replace(b"SHA", written.sha256.encode()))
    elif sys.platform != "win32":  # it has no FIFOs; without a file, the result is the same
        os.mkfifo(note)
    second = place.folder / "second"
    assert place.install(lock, prefix=second).downloaded_bytes == written.size
    assert (second / "share" / "one.txt").read_text() == "1"


def test_conda_packages_with_a_common_file_are_reported(place: Place) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/same.txt": "1"}), text_package("two", "1.0", {"share/same.txt": "2"}))
    progress = Noted()
    place.install(_lock(own.folder, *own.packages.values()), progress)
    assert any("`one` and `two` both contain `share/same.txt`" in note for note in progress.notes)


def test_file_of_one_package_that_is_a_directory_of_another_is_reported(place: Place) -> None:
    own = Channel(place.folder / "own")
    own.add(text_package("one", "1.0", {"share/x": "1"}), text_package("two", "1.0", {"share/x/y": "2"}))
    progress = Noted()
    place.install(_lock(own.folder, *own.packages.values()), progress)
    assert any("`share/x` is a file of `one` and a directory of `two`" in note for note in progress.notes)


def test_file_that_is_no_archive_is_refused_with_its_name(place: Place) -> None:
    written = write_package(text_package("evil", "1.0", {}), place.folder / "evil-1.0-0.conda")
    folder = place.folder / "own" / "linux-64"
    folder.mkdir(parents=True)
    path = folder / written.path.name
    path.write_bytes(b"not a zip")
    fake = Written(package=written.package, path=path, size=9, sha256=sha256_of(path), md5="0" * 32)
    with pytest.raises(EnvforgeError) as caught:
        place.install(_lock(place.folder / "own", fake))
    assert caught.value.code == "archive-damaged"
    assert path.name in caught.value.message


@pytest.mark.parametrize("name", ["", ".", "..", "/x", "a//b", "./a", "a/../b", "a\\..\\b", "C:/x", "a\0b", "\\x"])
def test_path_outside_is_refused(name: str, place: Place) -> None:
    lock = _lock(place.folder / "own", _write(place.folder / "own", [_index()], ".conda"))
    (artifact,) = make_plan(read_any_lock(lock, "linux-64"), "linux-64", lock).conda
    check_path(artifact, "lib/..name/x..y")
    with pytest.raises(EnvforgeError):
        check_path(artifact, name)


Wheel = dict[str, str]
INFO = "evil-1.0.dist-info"
EVIL_WHEELS: dict[str, Wheel] = {
    "parent": {"../x.py": ""},
    "absolute": {"/x.py": ""},
    "inner parent": {"a/../../x.py": ""},
    "backslash": {"a\\..\\..\\x.py": ""},
    "two slashes": {"a//x.py": ""},
    "conda's records": {"evil-1.0.data/data/conda-meta/fake-1.0-0.json": "{}"},
    "conda's records in capitals": {"evil-1.0.data/data/Conda-Meta/fake-1.0-0.json": "{}"},
    "envforge's records": {"evil-1.0.data/data/.envforge/journal.json": "{}"},
    "data of another kind": {"evil-1.0.data/bogus/x": ""},
    "program up": {f"{INFO}/entry_points.txt": "[console_scripts]\n../../x = evil:main\n"},
    "absolute program": {f"{INFO}/entry_points.txt": "[gui_scripts]\n/tmp/x = evil:main\n"},
    "record up": {f"{INFO}/RECORD": "../../../../outside.txt,,\n"},
    "record of an absolute path": {f"{INFO}/RECORD": "/etc/passwd,,\n"},
    "record with a NUL": {f"{INFO}/RECORD": "a\0b,,\n"},
    "record with no checksum": {f"{INFO}/RECORD": "evil.py,sha256=abcde,1\n"},
    "record with no text": {f"{INFO}/RECORD": "\udcff,,\n"},
    "record without end": {f"{INFO}/RECORD": "a,,\n" * 6_000_000},
    "record of the installer": {f"{INFO}/direct_url.json": "[["},
    "another package": {"other-1.0.dist-info/RECORD": ""},
    "metadata of another package": {f"{INFO}/METADATA": "Name: other\nVersion: 1.0\n"},
    "metadata of another version": {f"{INFO}/METADATA": "Name: evil\nVersion: 2.0\n"},
    "another format": {f"{INFO}/WHEEL": "Wheel-Version: 9.0\n"},
    "no format": {f"{INFO}/WHEEL": "\udcff"},
    "record of a missing file": {f"{INFO}/RECORD": "absent.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"},
    "record of a huge number": {f"{INFO}/RECORD": f"evil.py,,{'9' * 5000}\n"},
    "unreadable format": {f"{INFO}/WHEEL": "Wheel-Version: 1.\udcff\n"},
    "large metadata": {f"{INFO}/METADATA": "Name: evil\nVersion: 1.0\n" + "X: y\n" * 500_000},
    "mark of direction": {"a\u202egpj.py": ""},
    "long path": {"x/" * 1500 + "y": ""},
    "program python": {f"{INFO}/entry_points.txt": "[console_scripts]\npython3.11 = evil:main\n"},
    "settings of the environment": {"evil-1.0.data/data/pyvenv.cfg": "home = /x"},
    "script in a directory": {"evil-1.0.data/scripts/d/x": ""},
    "script python": {"evil-1.0.data/scripts/python": ""},
    "data python": {"evil-1.0.data/data/bin/python3": ""},
    "data of another package": {"other-1.0.data/data/lib/x": ""},
    "section with a comment": {f"{INFO}/entry_points.txt": "[console_scripts] ; c\n../../x = evil:main\n"},
    "section with more": {f"{INFO}/entry_points.txt": "[console_scripts]x\n../../x = evil:main\n"},
    "section after a mark": {f"{INFO}/entry_points.txt": "\ufeff[console_scripts]\nx = evil:main\n"},
    "program with code": {f"{INFO}/entry_points.txt": "[console_scripts]\nx = evil:main;import os\n"},
    "installer": {f"{INFO}/INSTALLER": "x"},
    "file and directory": {"a": "", "a/__init__.py": ""},
    "control character": {"a\x1b[2Jb.py": ""},
    "long name": {"x" * 256: ""},
    "program with a control character": {f"{INFO}/entry_points.txt": "[console_scripts]\n\x1b[2J = evil:main\n"},
}


def _evil_wheel(folder: Path, files: Wheel, *, attributes: int = 0, again: Literal["evil.py"] | None = None) -> Path:
    path = folder / "evil-1.0-py3-none-any.whl"
    texts = {
        "evil.py": "",
        f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*texts, f"{INFO}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**texts, f"{INFO}/RECORD": record, **files}.items():
            member = zipfile.ZipInfo(name)
            member.filename = name
            member.external_attr = attributes << 16 if name == "evil.py" else 0
            archive.writestr(member, text.encode("utf-8", "surrogateescape"))
    return path


def _install_wheel(lock: LockWriter, channel: Channel, place: Place, wheel: Path) -> EnvforgeError:
    lock.conda(channel.packages["python"]).rows.extend(LockWriter(wheel.parent.parent.as_uri()).wheel(wheel).rows)
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock.write(place.folder / "conda-lock.yml"))
    assert not place.prefix.exists()
    return caught.value


@pytest.fixture
def wheels(place: Place) -> Path:
    folder = place.folder / "own" / "wheels"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("attack", EVIL_WHEELS)
def test_wheel_is_refused_before_anything_changes(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, attack: str
) -> None:
    error = _install_wheel(lock, channel, place, _evil_wheel(wheels, EVIL_WHEELS[attack]))
    assert error.code in REFUSED
    assert "evil-1.0-py3-none-any.whl" in error.message
    assert not list((place.cache / "files").rglob("evil-*"))
    assert not list((place.cache / "uv").glob("archive-v0/*/*"))  # what uv has unpacked


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644, 0o104755])
def test_wheel_with_a_link_device_or_setuid_program_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, mode: int
) -> None:
    assert _install_wheel(lock, channel, place, _evil_wheel(wheels, {}, attributes=mode)).code == "archive-refused"


def test_wheel_with_a_member_twice_is_refused(lock: LockWriter, channel: Channel, place: Place, wheels: Path) -> None:
    path = _evil_wheel(wheels, {})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("evil.py", "other")
    assert "twice" in _install_wheel(lock, channel, place, path).message


def test_wheel_with_another_name_in_a_local_header_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    path = _evil_wheel(wheels, {})
    path.write_bytes(path.read_bytes().replace(b"evil.py", b"../l.py", 1))
    assert "another name in its local header" in _install_wheel(lock, channel, place, path).message


@pytest.mark.parametrize("is_local", [True, False], ids=["local header", "directory"])
@pytest.mark.parametrize(
    "extra",
    [
        # the Unicode path of Info-ZIP (APPNOTE 4.6.9), which uv takes for the name of the file
        struct.pack("<HHBI", 0x7075, 5 + len(b"other.pth"), 1, zlib.crc32(b"evil.py")) + b"other.pth",
        struct.pack("<HH", 0x5455, 9),  # cut off
        b"\x01",
    ],
    ids=["another name", "cut off", "no field"],
)
def test_wheel_with_a_name_in_an_extra_field_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, extra: bytes, is_local: bool
) -> None:
    path = _evil_wheel(wheels, {})
    header = (b"PK\3\4", 28, 30) if is_local else (b"PK\1\2", 30, 46)
    text = bytearray(path.read_bytes())
    start = text.index(header[0])
    while text[start + header[2] : start + header[2] + 7] != b"evil.py":
        start = text.index(header[0], start + 1)
    struct.pack_into("<H", text, start + header[1], len(extra))
    text[start + header[2] + 7 : start + header[2] + 7] = extra
    end = text.index(b"PK\5\6")
    field = end + (16 if is_local else 12)  # where the directory is, and its size
    struct.pack_into("<I", text, field, struct.unpack_from("<I", text, field)[0] + len(extra))
    if is_local:  # `evil.py` is the first member
        _move_members(text, len(extra))
    path.write_bytes(text)
    assert "xtra field" in _install_wheel(lock, channel, place, path).message


def _move_members(text: bytearray, distance: int) -> None:
    start = text.find(b"PK\1\2")
    while start >= 0:
        offset = struct.unpack_from("<I", text, start + 42)[0]
        struct.pack_into("<I", text, start + 42, offset + distance * bool(offset))
        start = text.find(b"PK\1\2", start + 1)


Ending = Callable[[int, int, int], bytes]


def _record(count: int, size: int, place: int, more: bytes = b"") -> bytes:
    numbers = (0, 0, count, count, size, place)
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44 + len(more), 45, 45, *numbers) + more


def _end(count: int, size: int, place: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, place, len(comment)) + comment


def _end_of_large(at: int, total: int = 1) -> bytes:
    return struct.pack("<4sIQI", b"PK\6\7", 0, at, total) + _end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


ENDINGS: dict[str, Ending] = {
    "comment": lambda count, size, place: _end(count, size, place, b"PK"),
    "end in the comment": lambda count, size, place: _end(count, size, place, _end(0, 0, 0)),
    "two records": lambda count, size, place: (
        _record(0, 0, 0, _record(count, size, place)) + _end_of_large(place + size)
    ),
    "record elsewhere": lambda count, size, place: _record(count, size, place) + _end_of_large(0),
    "other count": lambda count, size, place: _record(count + 1, size, place) + _end_of_large(place + size),
}


def _with_ending(wheel: Path, ending: Ending) -> Path:
    text = wheel.read_bytes()
    *_, count, size, place, _ = struct.unpack("<4s4H2IH", text[-22:])
    wheel.write_bytes(text[:-22] + ending(count, size, place))
    return wheel


@pytest.mark.parametrize("name", ENDINGS)
def test_wheel_whose_end_readers_find_in_other_ways_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, name: str
) -> None:
    wheel = _with_ending(_evil_wheel(wheels, {}), ENDINGS[name])
    assert _install_wheel(lock, channel, place, wheel).code == "archive-damaged"


def test_wheel_with_a_needless_field_for_large_sizes_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    wheel = _evil_wheel(wheels, {})
    text = bytearray(wheel.read_bytes())
    extra = struct.pack("<HHQ", 1, 8, 7)
    start = text.index(b"PK\1\2")
    name_length = struct.unpack_from("<H", text, start + 28)[0]
    struct.pack_into("<H", text, start + 30, len(extra))
    text[start + 46 + name_length : start + 46 + name_length] = extra
    end = len(text) - 22
    struct.pack_into("<I", text, end + 12, struct.unpack_from("<I", text, end + 12)[0] + len(extra))
    wheel.write_bytes(text)
    assert "readers read in other ways" in _install_wheel(lock, channel, place, wheel).message


def test_wheel_with_a_record_for_large_archives_is_installed(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    wheel = _with_ending(
        text_wheel("mine", "1.0", {"mine/__init__.py": ""}, wheels),
        lambda count, size, place: _record(count, size, place) + _end_of_large(place + size),
    )
    lock.conda(channel.packages["python"]).rows.extend(LockWriter(wheel.parent.parent.as_uri()).wheel(wheel).rows)
    place.install(lock.write(place.folder / "conda-lock.yml"))
    assert (place.prefix / SITE_PACKAGES / "mine" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("at", "value"),
    [(4, 99), (6, 1), (14, 0), (18, 1), (22, 1)],
    ids=["version", "encrypted", "checksum", "packed size", "size"],
)
def test_wheel_whose_local_header_uv_rejects_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, at: int, value: int
) -> None:
    path = _evil_wheel(wheels, {"evil.txt": "text"})
    text = bytearray(path.read_bytes())
    text[text.index(b"evil.txt") - 30 + at] = value
    path.write_bytes(text)
    assert "packed otherwise in its local header" in _install_wheel(lock, channel, place, path).message


def test_wheel_with_bytes_between_its_files_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    path = _evil_wheel(wheels, {})
    text = bytearray(path.read_bytes())
    directory = struct.unpack_from("<I", text, len(text) - 6)[0]
    struct.pack_into("<I", text, len(text) - 6, directory + 4)
    text[directory:directory] = bytes(4)
    path.write_bytes(text)
    assert "files that its directory doesn't list" in _install_wheel(lock, channel, place, path).message


def test_directory_of_a_wheel_counts_like_a_link_with_its_path(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    # uv may make `p` before rattler links it, and `l` would then lead outside
    own = Channel(place.folder / "conda")
    up = "/".join([".."] * (SITE_PACKAGES.count("/") + 3))
    files = (
        File(path=f"{SITE_PACKAGES}/l", link_to=f"p/{up}"),
        File(path=f"{SITE_PACKAGES}/p", link_to="a/b/c/d/e/f"),
        File(path=f"{SITE_PACKAGES}/a/b/c/d/e/f/g"),
    )
    own.add(Package(name="links", version="1.0", files=files))
    lock.rows.extend(LockWriter(own.folder.as_uri()).conda(own.packages["links"]).rows)
    wheel = _evil_wheel(wheels, {"p/x.py": "", "evil-1.0.data/purelib/l/evil.txt": ""})
    assert "outside" in _install_wheel(lock, channel, place, wheel).message


def test_wheel_that_is_packed_otherwise_in_a_local_header_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path
) -> None:
    path = _evil_wheel(wheels, {})
    text = bytearray(path.read_bytes())
    text[8] = zipfile.ZIP_DEFLATED
    path.write_bytes(text)
    assert "packed otherwise in its local header" in _install_wheel(lock, channel, place, path).message


@pytest.mark.parametrize("place_of_hidden", [0, 2, 4])
def test_wheel_with_a_file_that_is_not_listed_is_refused(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, place_of_hidden: int
) -> None:
    path = _evil_wheel(wheels, {})
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    members.insert(place_of_hidden, ("hidden.py", b""))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.filelist.pop(place_of_hidden)
    assert "files that its directory doesn't list" in _install_wheel(lock, channel, place, path).message


def test_wheel_without_a_record_is_refused(lock: LockWriter, channel: Channel, place: Place, wheels: Path) -> None:
    path = wheels / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil.py", "")
    error = _install_wheel(lock, channel, place, path)
    assert error.code == "archive-damaged"
    assert "expected one directory `evil-1.0.dist-info`, found none" in error.message


@pytest.mark.parametrize(
    ("link", "member"),
    [
        (f"{SITE_PACKAGES}/mine", "mine/x.py"),
        ("include", "mine-1.0.data/headers/x.h"),
        (f"include/{SITE_PACKAGES.split('/')[1]}/mine", "mine-1.0.data/headers/deep/x.h"),
        ("share", "mine-1.0.data/data/share/x"),
    ],
)
def test_wheel_is_not_installed_through_a_link_of_the_user(
    lock: LockWriter, channel: Channel, place: Place, wheels: Path, link: str, member: str
) -> None:
    lock.conda(channel.packages["python"])
    place.install(lock.write(place.folder / "python.yml"))
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(place.prefix / link, ignore_errors=True)
    (place.prefix / link).parent.mkdir(parents=True, exist_ok=True)
    (place.prefix / link).symlink_to(elsewhere)
    wheel = text_wheel("mine", "1.0", {"mine/__init__.py": "", member: ""}, wheels)
    lock.rows.extend(LockWriter(wheels.parent.as_uri()).wheel(wheel).rows)
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock.write(place.folder / "both.yml"))
    assert caught.value.code == "archive-refused"
    assert not list(elsewhere.iterdir())
