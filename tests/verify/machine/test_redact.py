"""Test that redacted records and reports contain no user, host, UUID, or home directory, and keep their verdicts."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec.structs import replace

from envforge.base.redact import Identity
from envforge.machine.world import Space
from envforge.verify.checks import judge
from envforge.verify.record import Record, record_to_json, redact
from envforge.verify.values import Report, Verdict
from tests.verify.machine.scenarios import HEALTHY
from tests.verify.machine.scenes import CHECKS, FakeCalls, Scene, a100, findings, machine
from tests.verify.made_up import finding, report

WHO = Identity(user="elvira", hosts=("gpu-box-7.lab.example",), home="/data/people/elvira")
FIRST = "GPU-12345678-aaaa-bbbb-cccc-1234567890ab"
SECOND = "GPU-87654321-aaaa-bbbb-cccc-1234567890ab"
UUID = "GPU-00000000-1111-2222-3333-444444444444"
TELLING: Scene = replace(
    machine(a100(rows="0 2 0 1")),
    environment={
        "CUDA_VISIBLE_DEVICES": UUID,
        "LD_LIBRARY_PATH": "/home/ada.lovelace/cuda/lib64:/Users/ada.lovelace/cuda",
        "LD_PRELOAD": "/root/secret.so",
        "CUDA_COREDUMP_FILE": "/home/ada.lovelace/core-gpu-box",
    },
)


def hidden(record: Record) -> Record:
    return redact(Report(record=record, findings=()), Identity()).record


def _record(scene: Scene, folder: Path, stub: Path) -> tuple[Record, Record]:
    record = scene.record(folder, stub)
    assert record.machine is not None
    return record, hidden(record)


def test_nothing_that_tells_this_machine_from_others_is_left(tmp_path: Path, stub: Path) -> None:
    record, once = _record(TELLING, tmp_path, stub)
    before, after = (json.dumps(record_to_json(r)) for r in (record, once))
    for word in ("gpu-box", "ada.lovelace", UUID, "/root/secret.so"):
        assert word in before, word
        assert word not in after, word


def test_the_verdicts_stay(tmp_path: Path, stub: Path) -> None:
    record, once = _record(TELLING, tmp_path, stub)
    verdicts = [[(f.check, f.subject, f.verdict) for f in judge(r, CHECKS).findings] for r in (record, once)]
    assert verdicts[0] == verdicts[1]


def test_a_command_of_a_redacted_record_can_still_be_pasted(tmp_path: Path, stub: Path) -> None:
    space = Space(total_bytes=1, free_bytes=1, free_inodes=1)
    full = replace(HEALTHY, calls=FakeCalls(spaces={"/": space}))
    _, once = _record(full, tmp_path, stub)
    assert once.machine is not None
    rooms = tuple(
        replace(room, value=replace(room.value, path="~/my project/.conda", folder="~/my project"))
        for room in once.machine.system.rooms
        if room.value is not None
    )
    there = replace(once.machine, system=replace(once.machine.system, rooms=rooms))
    commands = {finding.command for finding in findings(replace(once, machine=there), "disk-full")}
    assert commands == {"df -h ~/'my project'"}


def test_it_is_the_same_the_second_time(tmp_path: Path, stub: Path) -> None:
    _, once = _record(HEALTHY, tmp_path, stub)
    assert hidden(once) == once


def shown(text: str) -> str:
    (found,) = redact(report(finding("x", Verdict.FAIL, observed=text)), WHO).findings
    return found.observed


def test_names_homes_and_hosts_have_stand_ins() -> None:
    assert shown("/data/people/elvira/x and /home/max/y") == "~/x and ~/y"
    assert shown("gpu-box-7.lab.example, gpu-box-7, gpu-box-77") == "HOST, HOST, gpu-box-77"
    assert shown("elvira@somewhere, /scratch/elvira/run") == "EMAIL, /scratch/USER/run"


def test_identifiers_stay_distinct() -> None:
    assert shown(f"{FIRST} {SECOND} {FIRST}") == "GPU-redacted-1 GPU-redacted-2 GPU-redacted-1"


def test_common_names_do_not_maim_texts() -> None:
    common = Identity(user="root", hosts=("localhost",), home="/root")
    (found,) = redact(report(finding("x", Verdict.FAIL, observed="only root may, on localhost")), common).findings
    assert found.observed == "only root may, on localhost"


def test_verdicts_and_facts_stay() -> None:
    before = report(finding("x", Verdict.WARN), own={"free": [1, 2.5, None, "/home/max/a"]})
    after = redact(before, WHO)
    assert [each.verdict for each in after.findings] == [Verdict.WARN]
    assert after.record.own == {"free": [1, 2.5, None, "~/a"]}
    assert (after.record.project, after.record.redacted) == (before.record.project, True)
