"""A lockfile has the same digest wherever it is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from envforge.prefix.audit import AuditRequest, audit
from envforge.prefix.audit_files import normal_record, normal_sha256
from tests.prefix.audit.support import Audited, edit
from tests.support.channel import PLACEHOLDER, SITE_PACKAGES, SUBDIR


def _digest(prefix: Path) -> str:
    report = audit(AuditRequest(prefix=prefix, platform=SUBDIR))
    assert report.drift == ()
    return report.digest


@pytest.mark.parametrize("name", ["x" * 120, "with space"])
def test_the_same_lock_in_two_prefixes_gives_one_digest(audited: Audited, tmp_path: Path, name: str) -> None:
    prefix = tmp_path / name
    audited.place.install(audited.lockfile, prefix=prefix)
    assert (prefix / "share" / "greeting.txt").read_text() != (audited.prefix / "share" / "greeting.txt").read_text()
    assert _digest(prefix) == _digest(audited.prefix)


@pytest.mark.parametrize(
    "path",
    [
        "share/greeting.txt",
        "lib/blob",
        "bin/tool",
        f"{SITE_PACKAGES}/jinja2/__init__.py",
        f"{SITE_PACKAGES}/tool/data.txt",
        f"{SITE_PACKAGES}/tool-1.0.dist-info/RECORD",
    ],
)
def test_one_changed_byte_changes_the_digest(audited: Audited, path: str) -> None:
    before = audited.audit().digest
    data = bytearray((audited.prefix / path).read_bytes())
    data[-1] ^= 1
    edit(audited.prefix / path, bytes(data))
    assert audited.audit().digest != before


def test_a_removed_an_added_and_a_redirected_file_change_the_digest(audited: Audited) -> None:
    seen = {audited.audit().digest}
    (audited.site / "stray.py").write_text("")
    seen.add(audited.audit().digest)
    (audited.prefix / "lib" / "blob").unlink()
    seen.add(audited.audit().digest)
    (audited.prefix / "bin" / "python3").unlink()
    (audited.prefix / "bin" / "python3").symlink_to("/usr/bin/env")
    seen.add(audited.audit().digest)
    assert len(seen) == 4


def test_the_same_change_in_two_prefixes_gives_one_digest(audited: Audited, tmp_path: Path) -> None:
    prefix = tmp_path / "second"
    audited.place.install(audited.lockfile, prefix=prefix)
    for folder in (audited.prefix, prefix):
        edit(folder / "share" / "greeting.txt", f"changed, in {folder}\n".encode())
        edit(folder / "lib" / "blob", (folder / "lib" / "blob").read_bytes() + b"!")
        (folder / SITE_PACKAGES / "mine.pth").write_text(f"{folder}/share\n")
    digests = {audit(AuditRequest(prefix=folder, platform=SUBDIR)).digest for folder in (audited.prefix, prefix)}
    assert len(digests) == 1


def test_a_binary_gets_its_placeholder_back_byte_for_byte() -> None:
    def content(prefix: str) -> bytes:
        text = f"{prefix}/a:{prefix}/b".encode()
        return b"\x7fELF\0" + text.ljust(len(f"{PLACEHOLDER}/a:{PLACEHOLDER}/b"), b"\0") + b"\0tail\0\0" + b"\1"

    archived = hashlib.sha256(content(PLACEHOLDER)).hexdigest()
    assert normal_sha256(content("/opt/env"), "/opt/env", PLACEHOLDER) == archived
    assert normal_sha256(content("/opt/env"), "/opt/other", PLACEHOLDER) != archived


def test_a_launcher_is_the_same_with_a_long_first_line() -> None:
    body = b"import sys\nsys.exit(0)\n"
    short = b"#!/opt/env/bin/python\n" + body
    for long in (
        b"#!/bin/sh\n'''exec' \"/opt/env/bin/python\" \"$0\" \"$@\" #'''\n" + body,
        b"#!/bin/sh\n'''exec' '/opt/env/bin/python' \"$0\" \"$@\"\n' '''\n" + body,
    ):
        assert normal_sha256(long, "/opt/env", "") == normal_sha256(short, "/opt/env", "")


def test_launchers_of_installers_have_one_digest() -> None:
    start, entry = b"#!/opt/env/bin/python\n", b"from tool import main\n"
    uv = (
        b"# -*- coding: utf-8 -*-\nimport sys\n" + entry + b'if __name__ == "__main__":\n'
        b'    if sys.argv[0].endswith("-script.pyw"):\n        sys.argv[0] = sys.argv[0][:-11]\n'
        b'    elif sys.argv[0].endswith(".exe"):\n        sys.argv[0] = sys.argv[0][:-4]\n    sys.exit(main())\n'
    )
    pip = (
        b"import sys\n" + entry + b"if __name__ == '__main__':\n"
        b"    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit(main())\n"
    )
    assert normal_sha256(start + uv, "/opt/env", "") == normal_sha256(start + pip, "/opt/env", "")
    changed = pip.replace(b"sys.exit(main())", b"sys.exit(main() or 1)")
    assert normal_sha256(start + pip, "/opt/env", "") != normal_sha256(start + changed, "/opt/env", "")


def test_a_record_counts_without_what_is_written_on_the_spot() -> None:
    rows = ["tool/__init__.py,sha256=abc,38", "../../../bin/tool,sha256=def,310", "tool-1.0.dist-info/RECORD,,"]
    pip = [rows[0], "../../../bin/tool,sha256=xyz,299", *rows[2:], "tool/__pycache__/__init__.cpython-311.pyc,,"]
    pip.append("tool-1.0.dist-info/INSTALLER,sha256=ghi,4")
    assert normal_record("\n".join(rows).encode()) == normal_record("\n".join(pip).encode())
    assert normal_record("\n".join(rows).encode()) != normal_record("\n".join(rows[1:]).encode())
