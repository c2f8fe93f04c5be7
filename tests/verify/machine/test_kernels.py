"""Test the kernels of the locked torch on GPUs that no scenario has."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.lock.needs import Needed
from envforge.machine.record import load_machine
from envforge.machine.values import Gpu
from envforge.verify.checks import all_checks, judge
from envforge.verify.machine.facts import LockNeeds, MachineFacts
from envforge.verify.record import Record
from envforge.verify.values import Signal, Verdict
from tests.verify.machine.scenes import NOW

ORIN = Gpu(index=0, name="Orin", compute_capability=ComputeCapability(8, 7))


@pytest.mark.parametrize(("cuda", "verdict"), [("13.2", Verdict.WARN), ("13.0", Verdict.FAIL)])
def test_server_build_on_a_jetson_is_judged_as_by_explain(cuda: str, verdict: Verdict) -> None:
    needs = LockNeeds(
        platform="linux-aarch64",
        platforms=("linux-aarch64",),
        words="",
        torch="2.14.1",
        tag=WheelTag(Version(cuda)),
        cuda=Needed(version=Version(cuda), package="torch"),
        capabilities=(ComputeCapability(8, 0),),
    )
    machine = replace(load_machine("h100", {}), platform="linux-aarch64", gpus=(ORIN,))
    facts = MachineFacts(machine=machine, lock=Signal(value=needs, source="conda-lock.yml"))
    checks = [check for check in all_checks(("machine",)) if check.id == "no-kernel-for-gpu"]
    (finding,) = judge(Record(envforge="", created_at=NOW, machine=facts), checks).findings
    assert finding.verdict is verdict
