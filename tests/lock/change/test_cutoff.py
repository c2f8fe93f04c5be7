"""Test that all forms of ``--exclude-newer`` give one time in UTC, and that ``--check`` compares it."""

from __future__ import annotations

import datetime as dt

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.check import check_lock
from envforge.lock.lockfile import update_sha256
from envforge.lock.request import Cutoff, parse_cutoff, read_moment
from tests.lock.change.conftest import MIDWAY, Project

NOW = dt.datetime(2026, 11, 22, 14, 30, 15, 999, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", "2026-01-31T23:59:59Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31 12:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00Z"),
        ("7d", "2026-11-15T14:30:15Z"),
        ("12h", "2026-11-22T02:30:15Z"),
        ("2w", "2026-11-08T14:30:15Z"),
        ("none", "none"),
    ],
)
def test_a_date_a_time_and_a_span_become_one_moment_in_utc(text: str, moment: str) -> None:
    assert str(parse_cutoff(text, NOW)) == moment


@pytest.mark.parametrize("text", ["yesterday", "7 months", "2026-02-30", "", "2027-01-01", "-3d"])
def test_what_is_no_past_moment_is_refused(text: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        parse_cutoff(text, NOW)
    assert (caught.value.code, caught.value.exit_code) == ("bad-date", 2)
    assert f"--exclude-newer {text}" in caught.value.message


def test_an_upload_time_that_cannot_be_read_is_no_date() -> None:
    assert read_moment("last week") is None
    assert read_moment("2026-01-31T12:00:00.5Z") == dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)


def test_check_knows_the_date_of_the_lock(aged: Project) -> None:
    def codes(cutoff: Cutoff | None) -> list[str]:
        found = check_lock(aged.environment, aged.lockfile, exclude_newer=cutoff)
        return [difference.code for difference in found]

    assert codes(None) == []
    assert codes(MIDWAY) == ["exclude-newer"]
    text = aged.lockfile.read_text(encoding="utf-8")
    dated = text.replace("    envforge_input", "    envforge_exclude_newer: '2025-01-01T00:00:00Z'\n    envforge_input")
    assert dated != text
    aged.lockfile.write_text(update_sha256(dated), encoding="utf-8")
    assert codes(MIDWAY) == []
    assert codes(parse_cutoff("7d", NOW)) == []
    assert codes(parse_cutoff("2024-12-31", NOW)) == ["exclude-newer"]
