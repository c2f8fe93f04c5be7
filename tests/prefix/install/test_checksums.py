"""A file that differs from the lockfile never reaches a prefix, whatever its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.plan import Artifact, make_plan, read_any_lock
from envforge.prefix.cache import Store
from envforge.prefix.fetch import fetch_all
from envforge.prefix.values import InstallRequest
from tests.prefix.install.support import LockWriter, Noted, Place
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel
from tests.support.loopback import Fault, Loopback


def _cached(place: Place, name: str) -> Path:
    return next((place.cache / "files").rglob(f"{name}-*.conda"))


def test_a_file_damaged_on_the_way_is_fetched_once_more(greeting: Path, place: Place, server: Loopback) -> None:
    server.fail("/" + _location(server, greeting), Fault(corrupt=True), times=1)
    progress = Noted()
    place.install(greeting, progress)
    assert (place.prefix / "share" / "greeting.txt").exists()
    assert any("greeting 1.0" in note for note in progress.notes)


def test_a_file_that_differs_twice_stops_the_install_and_names_both_checksums(
    greeting: Path, place: Place, server: Loopback, channel: Channel
) -> None:
    server.fail("/" + _location(server, greeting), Fault(corrupt=True))
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.code == "checksum-mismatch"
    written = channel.packages["greeting"]
    for part in ("greeting 1.0", f"{server.url}/{written.location}", f"sha256:{written.sha256}", "found:"):
        assert part in caught.value.message
    assert not place.prefix.exists()


@pytest.mark.parametrize("damage", ["corrupt", "truncate"])
def test_a_damaged_file_in_the_cache_is_fetched_again(
    greeting: Path, place: Place, server: Loopback, damage: str
) -> None:
    request = InstallRequest(lockfile=greeting, prefix=place.prefix, platform=SUBDIR)
    plan = make_plan(read_any_lock(greeting, SUBDIR), SUBDIR, greeting)
    fetch_all(plan.conda, Store(place.cache), request, Noted())  # as for a bundle, which needs no unpacked packages
    cached = _cached(place, "greeting")
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-10] if damage == "truncate" else whole[:-1] + bytes([whole[-1] ^ 1]))
    asked = len(server.requests)
    progress = Noted()
    place.install(greeting, progress)
    assert len(server.requests) == asked + 1
    assert (place.prefix / "share" / "greeting.txt").read_text().startswith("hello")
    assert any("is corrupt" in note for note in progress.notes)
    assert not cached.exists()  # for it is unpacked


def test_file_that_another_process_brings_meanwhile_is_kept(
    greeting: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = InstallRequest(lockfile=greeting, prefix=place.prefix, platform=SUBDIR)
    plan, store = make_plan(read_any_lock(greeting, SUBDIR), SUBDIR, greeting), Store(place.cache)
    holds, progress = Store.holds, Noted()

    def lacks(self: Store, artifact: Artifact, *, reread: bool = False) -> bool:
        monkeypatch.setattr(Store, "holds", holds)
        fetch_all(plan.conda, store, request, Noted())
        return False

    monkeypatch.setattr(Store, "holds", lacks)
    (fetched,) = fetch_all(plan.conda, store, request, progress)
    assert fetched.path.is_file()
    assert progress.notes == []


def test_a_damaged_unpacked_conda_package_is_not_linked(greeting: Path, place: Place, tmp_path: Path) -> None:
    place.install(greeting)
    unpacked = next((place.cache / "pkgs").rglob("greeting.txt"))
    text = unpacked.read_text()
    unpacked.write_text(text.replace("hello", "HELLO"))
    place.install(greeting, prefix=tmp_path / "second")
    assert (tmp_path / "second" / "share" / "greeting.txt").read_text().startswith("hello")


def test_a_damaged_unpacked_wheel_is_installed_again(
    lock: LockWriter, channel: Channel, place: Place, tmp_path: Path
) -> None:
    lock.conda(channel.packages["python"]).wheel(channel.folder / "wheels" / "tool-1.0-py3-none-any.whl")
    written = lock.write(tmp_path / "conda-lock.yml")
    place.install(written)
    module = place.prefix / SITE_PACKAGES / "tool" / "__init__.py"
    good = module.read_bytes()
    unpacked = next((place.cache / "uv").rglob("tool/__init__.py"))
    unpacked.unlink()
    unpacked.write_bytes(good.replace(b"tool at work", b"tool at WORK"))
    progress = Noted()
    place.install(written, progress, prefix=tmp_path / "second")
    assert (tmp_path / "second" / SITE_PACKAGES / "tool" / "__init__.py").read_bytes() == good
    assert any("tool" in note and "is corrupt" in note for note in progress.notes)


def test_md5_alone_is_checked_and_warned_of_by_name(
    lock: LockWriter, channel: Channel, place: Place, server: Loopback, tmp_path: Path
) -> None:
    weak, strong = channel.packages["greeting"], channel.packages["extra"]
    written = lock.conda(weak, hash={"md5": weak.md5}).conda(strong).write(tmp_path / "conda-lock.yml")
    server.fail(f"/{weak.location}", Fault(corrupt=True), times=2)
    with pytest.raises(EnvforgeError) as caught:
        place.install(written)
    assert f"md5:{weak.md5}" in caught.value.message
    report = place.install(written)
    assert len(report.warnings) == 1
    assert "greeting 1.0" in report.warnings[0]
    assert "extra" not in report.warnings[0]


def test_a_package_without_any_checksum_is_refused_before_anything_is_fetched(
    lock: LockWriter, channel: Channel, place: Place, server: Loopback, tmp_path: Path
) -> None:
    written = lock.conda(channel.packages["greeting"], hash={}).write(tmp_path / "conda-lock.yml")
    with pytest.raises(EnvforgeError) as caught:
        place.install(written)
    assert caught.value.code == "not-installable"
    assert "greeting 1.0" in caught.value.message
    assert server.requests == ()
    assert not place.prefix.exists()


def test_an_archive_that_is_another_package_than_the_lock_says_is_refused(
    lock: LockWriter, channel: Channel, place: Place, tmp_path: Path
) -> None:
    written = lock.conda(channel.packages["greeting"], name="numpy").write(tmp_path / "conda-lock.yml")
    with pytest.raises(EnvforgeError) as caught:
        place.install(written)
    assert "greeting 1.0" in caught.value.message
    assert "numpy 1.0" in caught.value.message


def test_offline_names_the_first_file_that_is_missing(greeting: Path, place: Place, server: Loopback) -> None:
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting, offline=True)
    assert caught.value.code == "not-cached"
    assert "greeting 1.0" in caught.value.message
    assert server.requests == ()


def _location(server: Loopback, lock: Path) -> str:
    line = next(line for line in lock.read_text().splitlines() if line.strip().startswith("url: ") and ".conda" in line)
    return line.split(server.url + "/", 1)[1]
