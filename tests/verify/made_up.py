"""Build small complete records and reports, with values that are difficult for reports."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable
from typing import Any

from packaging.version import Version

from envforge.base.data_files import data_folder
from envforge.base.terms import ComputeCapability
from envforge.machine.values import Driver, Gpu, Machine
from envforge.verify.checks import all_checks, judge
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.record import Asked, Observed, ProjectFacts, Record
from envforge.verify.values import Check, Finding, Judgement, Question, Report, Verdict

T4 = Machine(
    platform="linux-64",
    python=Version("3.11.7"),
    glibc=Version("2.36"),
    driver=Driver(kernel_version=Version("535.216.01"), user_version=Version("535.216.01"), cuda=Version("12.2")),
    gpus=(Gpu(index=0, name="Tesla T4", compute_capability=ComputeCapability.parse("7.5"), memory_bytes=15 * 2**30),),
)
NOW = dt.datetime(2026, 11, 22, 16, 0, tzinfo=dt.timezone.utc)
EVIL = "<img src=x onerror=alert(1)>\x1b[31m|`**@you**\u202e& \x00"


def published_schema(name: str = "verify-report") -> dict[str, Any]:
    """The JSON Schema that the package contains."""
    value: dict[str, Any] = json.loads((data_folder() / f"{name}.schema.json").read_text(encoding="utf-8"))
    return value


def record(**changes: Any) -> Record:
    """A machine in a project, observed."""
    values: dict[str, Any] = {
        "envforge": "0.1.0",
        "created_at": NOW,
        "observed": (Observed(what="machine", seconds=0.4),),
        "machine": MachineFacts(machine=T4),
        "project": ProjectFacts(
            name="cats",
            template="image-classification 1.0",
            lock_file="conda-lock.yml",
            lock_sha256="ab" * 32,
            lock_platforms=("linux-64",),
            lock_needs="glibc 2.28 or newer",
        ),
    }
    return Record(**{**values, **changes})


def asked(*explicit: Any, **changes: Any) -> Asked:
    return Asked(explicit=explicit, **changes)


def check(name: str, judge: Callable[[Record], Iterable[Judgement]] | None = None, /, **changes: Any) -> Check:
    """A check of the machine; without a function it passes."""
    values: dict[str, Any] = {
        "id": name,
        "question": "machine",
        "group": "system",
        "title": f"the title of {name}",
        "why": f"why {name} matters",
        "severity": Verdict.FAIL,
        "judge": judge or (lambda record: [says(Verdict.PASS, "well")]),
    }
    return Check(**{**values, **changes})


def checks_of(question: Question) -> tuple[Check, ...]:
    """The checks of a question, without those that report whether it was observed."""
    return tuple(check for check in all_checks() if check.question == question and check.group != "observation")


def worst_findings(record: Record, checks: Iterable[Check]) -> dict[str, Finding]:
    """What each check says; where one says several things, the worst."""
    worst = (Verdict.PASS, Verdict.INFO, Verdict.SKIP, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)
    found: dict[str, Finding] = {}
    for finding in judge(record, checks).findings:
        before = found.setdefault(finding.check, finding)
        found[finding.check] = max(before, finding, key=lambda each: worst.index(each.verdict))
    return found


def complaints_in(findings: dict[str, Finding]) -> dict[str, Verdict]:
    good = (Verdict.PASS, Verdict.INFO, Verdict.SKIP)
    return {name: finding.verdict for name, finding in findings.items() if finding.verdict not in good}


def says(verdict: Verdict, observed: str, **more: str) -> Judgement:
    return Judgement(verdict=verdict, observed=observed, **more)


def finding(name: str, verdict: Verdict, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "check": name,
        "question": "machine",
        "group": "system",
        "title": f"the title of {name}",
        "required": False,
        "verdict": verdict,
        "observed": f"what was observed of {name}",
        "wanted": "",
        "source": "",
        "subject": "",
        "why": f"why {name} matters",
        "command": "",
    }
    return Finding(**{**values, **changes})


def report(*findings: Finding, **changes: Any) -> Report:
    return Report(record=record(**changes), findings=findings)


def every_verdict() -> Report:
    """One finding of each verdict, and one that is full of markup and control characters."""
    too_old = finding(
        "driver-too-old",
        Verdict.FAIL,
        wanted="driver 520.61.05 or newer",
        source="/proc/driver/nvidia/version",
        observed="driver 470.57.02",
        command="envforge lock --cuda 11.3",
    )
    evil = dict.fromkeys(("observed", "subject", "wanted", "source", "why", "command"), EVIL)
    return report(
        finding("well", Verdict.PASS),
        too_old,
        finding("power-cap", Verdict.WARN, subject="GPU 0", wanted="300 W"),
        finding("kernel-log", Verdict.UNKNOWN, required=True, command="sudo dmesg"),
        finding("speed", Verdict.INFO, question="training", group="speed"),
        finding("nvlink", Verdict.SKIP, observed="one GPU"),
        finding("gpu-name", Verdict.WARN, **evil),
    )
