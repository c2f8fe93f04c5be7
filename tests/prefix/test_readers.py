"""Whatever the files of a prefix or a bundle contain, reading them ends in a value or in an error of the user."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envforge.errors import EnvforgeError
from envforge.prefix.activation import variables
from envforge.prefix.audit_files import hash_files
from envforge.prefix.bundle import read_bundle
from envforge.prefix.conda_packages import read_records
from envforge.prefix.installed import check_removable, editable_installs, pip_installed, read_conda, read_distributions
from envforge.prefix.journal import read_journal
from envforge.prefix.kernel import _owner
from envforge.prefix.values import Silent

assert sys.platform != "win32"

SITE = "lib/python3.11/site-packages"
INFO = f"{SITE}/x-1.0.dist-info"


def _distributions(prefix: Path) -> object:
    return read_distributions(prefix, SITE, ())


def _hashes(prefix: Path) -> object:
    return hash_files(prefix, (), {}, Silent(), full=False)


READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "conda-meta/x-1.0-0.json": (read_conda, read_records, pip_installed),
    f"{INFO}/RECORD": (_distributions,),
    f"{INFO}/direct_url.json": (_distributions, editable_installs),
    f"{INFO}/INSTALLER": (_distributions, pip_installed),
    ".envforge/journal.json": (read_journal,),
    ".envforge/audit.json": (_hashes,),
    "conda-meta/state": (variables,),
    "etc/conda/env_vars.d/x.json": (variables,),
    "kernel.json": (_owner,),
    "bundle.tar": (lambda prefix: read_bundle(prefix / "bundle.tar"),),
}
NASTY = (
    b"",
    b"null",
    b"[]",
    b"7",
    b"{}",
    b"[" * 100_000,
    b"1" * 5_000,
    b"\xff\xfe",
    b"a\0b,sha256=x,1\n",
    b"x,sha256=abcde,1\n",
    b'{"name": "\\ud800", "version": "1"}',
    b'{"name": 7, "version": [], "files": {}, "paths_data": 1}',
    b'{"url": 1, "dir_info": [], "archive_info": "x", "env_vars": {"A": {}}}',
    b'{"schema_version": 1, "step": "never", "files": {"a": [1]}}',
    b'{"metadata": {"envforge": []}}',
)


def _read(path: Path, prefix: Path, data: bytes | None) -> None:
    """Read a file with this content, or a pipe, with each of its readers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if data is None:
        os.mkfifo(path)
    else:
        path.write_bytes(data)
    errors: list[EnvforgeError] = []
    for reader in READERS[path.relative_to(prefix).as_posix()]:
        try:
            reader(prefix)
        except EnvforgeError as error:  # noqa: PERF203 - each reader is tried
            errors.append(error)
    assert all(error.exit_code in {1, 3} and str(path) in error.message for error in errors)


@pytest.mark.parametrize("name", READERS)
def test_reader_is_total_for_known_faults(tmp_path: Path, name: str) -> None:
    for data in (*NASTY, None):
        _read(tmp_path / name, tmp_path, data)


@pytest.mark.parametrize("text", [b"a,,\n" * 500_001, (b"a" * 100_000 + b"\n") * 641], ids=len)
def test_huge_record_of_a_wheel_is_an_error_that_names_it(tmp_path: Path, text: bytes) -> None:
    record = tmp_path / INFO / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_bytes(text)
    for read in (_distributions, lambda prefix: check_removable(prefix, {"x"})):
        with pytest.raises(EnvforgeError, match=re.escape(str(record))) as caught:
            read(tmp_path)
        assert caught.value.code == "record-damaged"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: f'{{"name": "{text}", "url": 1}}'.encode())
)
def test_reader_is_total_for_any_bytes(tmp_path: Path, name: str, data: bytes) -> None:
    _read(tmp_path / name, tmp_path, data)
