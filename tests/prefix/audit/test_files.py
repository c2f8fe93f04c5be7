"""Every file of a prefix is compared with the records of its package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.prefix.audit import AuditRequest, audit
from envforge.prefix.journal import read_journal, write_journal
from tests.prefix.audit.support import Audited, age, edit
from tests.support.channel import SITE_PACKAGES, SUBDIR


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE_PACKAGES}/jinja2/__init__.py",
        f"{SITE_PACKAGES}/tool/__init__.py",
        f"{SITE_PACKAGES}/typing_extensions-4.16.0.dist-info/METADATA",
        "share/greeting.txt",
        "lib/blob",
        "bin/tool",
    ],
)
def test_a_changed_file_is_named(audited: Audited, path: str) -> None:
    if not (audited.prefix / path).exists():
        path = str(next(audited.site.glob("typing_extensions-*.dist-info/METADATA")).relative_to(audited.prefix))
    before = audited.audit().digest
    edit(audited.prefix / path)
    assert audited.drift() == [("file-changed", path)]
    assert audited.audit().digest != before


def test_a_missing_file_is_named(audited: Audited) -> None:
    (audited.prefix / "share" / "greeting.txt").unlink()
    (audited.site / "tool" / "data.txt").unlink()
    assert audited.drift() == [
        ("file-missing", f"{SITE_PACKAGES}/tool/data.txt"),
        ("file-missing", "share/greeting.txt"),
    ]


def test_strays_are_found_wherever_python_imports_from(audited: Audited) -> None:
    (audited.site / "sitecustomize.py").write_text("")
    (audited.site / "jinja2" / "helper.py").write_text("")
    (audited.site.parent / "usercustomize.py").write_text("")
    (audited.prefix / "share" / "notes.txt").write_text("")
    report = audited.audit()
    assert [found.path for found in report.drift] == [
        f"{SITE_PACKAGES}/jinja2/helper.py",
        f"{SITE_PACKAGES}/sitecustomize.py",
        f"{Path(SITE_PACKAGES).parent}/usercustomize.py",
    ]
    assert {found.kind for found in report.drift} == {"file-stray"}
    assert report.counts.unowned_files == 2  # notes.txt, and rattler's CACHEDIR.TAG


def test_a_link_that_leads_elsewhere_is_changed(audited: Audited) -> None:
    link = audited.prefix / "bin" / "python3"
    link.unlink()
    link.symlink_to("/usr/bin/env")
    assert audited.drift() == [("file-changed", "bin/python3")]


def test_a_file_that_became_a_link_is_changed(audited: Audited) -> None:
    path = audited.prefix / "share" / "greeting.txt"
    copy = path.with_name("copy.txt")
    path.rename(copy)
    path.symlink_to("copy.txt")
    assert audited.drift() == [("file-changed", "share/greeting.txt")]


def test_a_package_s_folder_may_be_reached_through_a_link(audited: Audited) -> None:
    (audited.prefix / "share" / "scripted").rename(audited.prefix / "lib" / "scripted")
    (audited.prefix / "share" / "scripted").symlink_to("../lib/scripted")
    assert audited.drift() == []


def test_what_link_scripts_write_is_no_drift(audited: Audited, tmp_path: Path) -> None:
    prefix = tmp_path / "second"
    audited.place.install(audited.lockfile, prefix=prefix, run_scripts=True)
    assert (prefix / SITE_PACKAGES / "made_by_script.py").exists()
    assert audit(AuditRequest(prefix=prefix, platform=SUBDIR)).drift == ()


def test_who_installed_a_wheel_is_no_drift(audited: Audited) -> None:
    before = audited.audit().digest
    (audited.site / "tool-1.0.dist-info" / "REQUESTED").unlink()
    assert audited.drift() == []
    assert audited.audit().digest == before


def test_a_wheel_without_record_is_damaged(audited: Audited) -> None:
    (audited.site / "tool-1.0.dist-info" / "RECORD").unlink()
    found = audited.drift()
    assert ("file-missing", f"{SITE_PACKAGES}/tool-1.0.dist-info/RECORD") in found
    assert ("file-stray", f"{SITE_PACKAGES}/tool/__init__.py") in found


def test_a_second_audit_reads_only_what_changed(audited: Audited) -> None:
    for path in audited.prefix.rglob("*"):
        if path.is_file() and not path.is_symlink():
            age(path)
    first = audited.audit()
    assert first.counts.read_files == first.counts.files
    assert audited.audit().counts.read_files == 0
    edit(audited.prefix / "share" / "greeting.txt")
    report = audited.audit()
    assert report.counts.read_files == 1
    assert [found.path for found in report.drift] == ["share/greeting.txt"]


def test_a_file_that_was_changed_just_now_is_read_again(audited: Audited) -> None:
    edit(audited.prefix / "share" / "greeting.txt", b"one")
    audited.audit()
    assert audited.audit().counts.read_files >= 1


def test_full_sees_a_change_that_hides_its_time(audited: Audited) -> None:
    path = audited.prefix / "share" / "greeting.txt"
    edit(path, path.read_bytes())
    age(path)
    audited.audit()
    state = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"H")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert audited.drift() == []
    report = audited.audit(full=True)
    assert [found.path for found in report.drift] == ["share/greeting.txt"]
    assert report.counts.read_files == report.counts.files


def test_a_damaged_cache_is_said_and_not_trusted(audited: Audited) -> None:
    clean = audited.audit()
    cache = audited.prefix / ".envforge" / "audit.json"
    for text in ("{", "[]", '{"schema_version": 1, "files": {"share/greeting.txt": [1]}}'):
        cache.write_text(text)
        report = audited.audit()
        assert report.digest == clean.digest
        assert report.counts.read_files == report.counts.files
        assert "is invalid" in report.notes[0]


def test_an_unfinished_prefix_is_named_as_such(audited: Audited) -> None:
    journal = read_journal(audited.prefix)
    assert journal is not None
    write_journal(audited.prefix, journal.at("conda done"))
    with pytest.raises(EnvforgeError, match=r"is incomplete: .* \(last step: `conda done`\)") as caught:
        audited.audit()
    assert caught.value.code == "prefix-unfinished"


def test_a_prefix_of_others_is_audited_with_a_lock_and_not_written_to(audited: Audited) -> None:
    shutil.rmtree(audited.prefix / ".envforge")
    with pytest.raises(EnvforgeError) as caught:
        audited.audit()
    assert caught.value.code == "no-lock-known"
    report = audited.audit(lockfile=audited.lockfile)
    assert report.drift == ()
    assert not (audited.prefix / ".envforge").exists()


def test_a_folder_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    for prefix, code in ((tmp_path, "not-an-environment"), (tmp_path / "none", "no-environment")):
        with pytest.raises(EnvforgeError) as caught:
            audit(AuditRequest(prefix=prefix, platform=SUBDIR))
        assert caught.value.code == code


def test_a_damaged_record_names_its_file(audited: Audited) -> None:
    path = audited.prefix / "conda-meta" / "greeting-1.0-0.json"
    path.write_text("{")
    with pytest.raises(EnvforgeError, match=r"greeting-1\.0-0\.json") as caught:
        audited.audit()
    assert caught.value.code == "record-damaged"


def test_the_lock_in_the_prefix_counts_where_the_project_s_is_gone(audited: Audited) -> None:
    audited.lockfile.unlink()
    report = audited.audit()
    assert report.lockfile == audited.prefix / ".envforge" / "conda-lock.yml"
    assert report.drift == ()
