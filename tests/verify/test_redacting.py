"""Test that redacted reports contain no names and keep their verdicts."""

from __future__ import annotations

from envforge.base.redact import Identity
from envforge.verify.record import redact
from envforge.verify.values import Verdict
from tests.verify.made_up import finding, report

WHO = Identity(user="elvira", hosts=("gpu-box-7.lab.example",), home="/data/people/elvira")
FIRST = "GPU-12345678-aaaa-bbbb-cccc-1234567890ab"
SECOND = "GPU-87654321-aaaa-bbbb-cccc-1234567890ab"


def shown(text: str) -> str:
    (found,) = redact(report(finding("x", Verdict.FAIL, observed=text)), WHO).findings
    return found.observed


def test_names_homes_and_hosts_have_stand_ins() -> None:
    assert shown("/data/people/elvira/x and /home/max/y") == "~/x and ~/y"
    assert shown("gpu-box-7.lab.example, gpu-box-7, gpu-box-77") == "HOST, HOST, gpu-box-77"
    assert shown("elvira@somewhere, /scratch/elvira/run") == "USER@somewhere, /scratch/USER/run"


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
