"""Test that records survive JSON unchanged, and that invalid records have clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from envforge.base.distribution import upgrade_command
from envforge.base.envelope import success
from envforge.machine.record import machine_to_json
from envforge.verify.record import NotObserved, RecordError, read_record, read_record_file, record_to_json
from envforge.verify.reports import report_to_json
from tests.verify.made_up import T4, asked, every_verdict, record

AGAIN = "envforge verify --json > record.json"


def test_a_record_comes_back_as_it_was() -> None:
    one = record(
        asked=asked("machine", depth="deep", only=("driver",)),
        not_observed=(NotObserved(what="training", why="late", reason="slow"),),
        own={"x": [1, {"y": None}]},
    )
    assert read_record(json.dumps(record_to_json(one)), "r.json") == one


def test_numbers_that_json_does_not_have_are_null_in_it() -> None:
    value = record_to_json(record(own={"loss": [float("nan"), float("inf"), -float("inf"), 1.5]}))
    assert json.loads(json.dumps(value, allow_nan=False))["own"] == {"loss": [None, None, None, 1.5]}


def test_what_verify_prints_is_read_as_the_record_in_it() -> None:
    printed = success("verify", report_to_json(every_verdict()))
    assert read_record(printed, "r.json") == every_verdict().record


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "record-damaged"),
        ("{", "record-damaged"),
        ("[" * 100_000, "record-damaged"),
        ("[]", "record-damaged"),
        ('{"record": "envforge-machine", "record_version": 1}', "record-foreign"),
        ('{"schema_version": 1, "command": "detect", "ok": true, "result": {}}', "record-foreign"),
        ('{"schema_version": 1, "command": "verify", "ok": false, "error": {}}', "record-foreign"),
    ],
)
def test_what_is_no_record_is_refused_with_a_hint(text: str, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_record(text, "r.json")
    assert (caught.value.code, "r.json" in caught.value.message) == (code, True)
    assert "envforge verify --json" in caught.value.hint


@pytest.mark.parametrize(("version", "command"), [(2, upgrade_command()), (0, AGAIN), (True, AGAIN), ("1", AGAIN)])
def test_a_record_of_another_version_is_refused(version: object, command: str) -> None:
    value = {**record_to_json(record()), "record_version": version}
    with pytest.raises(RecordError, match="record_version") as caught:
        read_record(json.dumps(value), "r.json")
    assert caught.value.commands == (command,)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"created_at": "yesterday"}, "created_at"),
        ({"observed": [{"what": "weather", "seconds": 1}]}, r"observed\[0\]\.what"),
        ({"machine": {"machine": {**machine_to_json(T4), "gpus": [{"index": "0"}]}}}, r"machine.*gpus\[0\]"),
        ({"machine": {"machine": machine_to_json(T4), "gpus": [{"index": "0"}]}}, r"machine\.gpus\[0\]\.index"),
    ],
)
def test_a_damaged_field_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(RecordError, match=f"`r.json.*{path}"):
        read_record(json.dumps({**record_to_json(record()), **change}), "r.json")


def test_a_file_that_is_not_there_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="failed to read the record") as caught:
        read_record_file(tmp_path / "none.json")
    assert caught.value.code == "record-unreadable"


def test_bytes_that_are_no_text_are_no_record(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError):
        read_record_file(tmp_path / "r.json")
