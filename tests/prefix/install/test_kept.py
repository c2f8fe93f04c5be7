"""Packages that already match the lockfile's checksums are kept."""

from __future__ import annotations

import json
from pathlib import Path

from envforge.prefix.audit import AuditRequest, audit
from envforge.prefix.installed import pip_installed
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel, File, Package, text_package
from tests.support.loopback import Loopback


def test_a_package_that_the_lock_knows_by_md5_is_not_linked_again_when_another_changes(
    channel: Channel, place: Place, server: Loopback, tmp_path: Path
) -> None:
    weak = channel.packages["greeting"]
    first = LockWriter(server.url).conda(weak, hash={"md5": weak.md5}).write(tmp_path / "first.yml")
    place.install(first)
    second = LockWriter(server.url).conda(weak, hash={"md5": weak.md5}).conda(channel.packages["extra"])
    assert place.install(second.write(tmp_path / "second.yml")).linked == ("extra 1.0",)
    third = LockWriter(server.url).conda(weak)
    report = place.install(third.write(tmp_path / "third.yml"))
    assert (report.linked, report.removed) == ((), ("extra",))


def test_a_package_of_the_same_name_with_another_md5_is_linked_again(
    place: Place, server: Loopback, channel: Channel, tmp_path: Path
) -> None:
    weak = channel.packages["greeting"]
    place.install(LockWriter(server.url).conda(weak, hash={"md5": weak.md5}).write(tmp_path / "first.yml"))
    other = Channel(tmp_path / "other")
    other.add(text_package("greeting", "1.0", {"share/greeting.txt": "hello again\n"}))
    changed = other.packages["greeting"]
    with Loopback(other.folder) as elsewhere:
        lock = LockWriter(elsewhere.url).conda(changed, hash={"md5": changed.md5}).write(tmp_path / "second.yml")
        assert place.install(lock).linked == ("greeting 1.0",)
    assert (place.prefix / "share" / "greeting.txt").read_text() == "hello again\n"


def test_a_library_of_conda_that_does_not_say_who_installed_it_is_not_taken_for_pips(
    lock: LockWriter, channel: Channel, place: Place, tmp_path: Path
) -> None:
    info = f"{SITE_PACKAGES}/quiet-1.0.dist-info"
    own = Channel(tmp_path / "own")
    metadata = "Metadata-Version: 2.1\nName: quiet\nVersion: 1.0\n"
    own.add(text_package("quiet", "1.0", {f"{info}/METADATA": metadata, f"{SITE_PACKAGES}/quiet.py": ""}))
    with Loopback(own.folder) as server:
        other = LockWriter(server.url).conda(own.packages["quiet"])
        lock.conda(channel.packages["python"]).rows.extend(other.rows)
        written = lock.write(tmp_path / "conda-lock.yml")
        place.install(written)
        assert place.install(written).outcome == "unchanged"
    stray = place.prefix / SITE_PACKAGES / "stray-1.0.dist-info"
    stray.mkdir()
    assert pip_installed(place.prefix) == {"stray"}


def test_records_contain_what_the_environment_file_requests(
    channel: Channel, lock: LockWriter, place: Place, tmp_path: Path
) -> None:
    lock.conda(channel.packages["greeting"]).conda(channel.packages["extra"], dependencies={"binary": ""})
    lock.conda(channel.packages["binary"])
    found = []
    for request in ("greeting >=1", "binary"):
        text = f"channels: [conda-forge]\nplatforms: [{SUBDIR}]\ndependencies: ['{request}']\n"
        (tmp_path / "environment.yml").write_text(text, encoding="utf-8")
        place.install(lock.write(tmp_path / "conda-lock.yml"), reinstall=frozenset({("conda", "extra")}))
        records = [json.loads(path.read_text()) for path in (place.prefix / "conda-meta").glob("*.json")]
        found.append({record["name"]: record.get("requested_spec") for record in records})
    # nothing needs `extra`, as nothing needs the pip that conda-lock adds
    assert found[0] == {"binary": None, "extra": "extra", "greeting": "greeting >=1"}
    assert found[1] == {"binary": "binary", "extra": "extra", "greeting": "greeting"}


def test_records_of_links_and_directories_have_only_the_fields_that_conda_writes(place: Place, tmp_path: Path) -> None:
    own = Channel(tmp_path / "own")
    links = {"share/directory": "real", "share/file": "real/file", "share/of-other": "greeting.txt", "share/up": ".."}
    files = (File(path="share/real/file", data=b"x\n"), *(File(path=p, link_to=to) for p, to in links.items()))
    own.add(Package(name="links", version="1.0", files=files))
    with Loopback(own.folder) as server:
        place.install(LockWriter(server.url).conda(own.packages["links"]).write(tmp_path / "conda-lock.yml"))
    record = json.loads((place.prefix / "conda-meta" / "links-1.0-0.json").read_text())
    rows = {row["_path"]: row for row in record["paths_data"]["paths"]}
    assert [row for row in (record, *rows.values()) if None in row.values()] == []
    assert {name for name, row in rows.items() if "sha256_in_prefix" in row} <= {"share/real/file", "share/file"}
    assert audit(AuditRequest(prefix=place.prefix, platform=SUBDIR)).drift == ()
