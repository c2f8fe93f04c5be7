"""Checks: environment variables that hurt. Rows 33 and 47 of the table."""

from __future__ import annotations

import re
from collections.abc import Iterator

from envforge.machine.overrides import VARIABLES as OVERRIDES
from envforge.verify.machine.judging import Case, info, judged, passed, warn
from envforge.verify.machine.tables import hurting_variables
from envforge.verify.values import Check, Judgement, Verdict

_ENVIRONMENT = "environment"
_CUDA_FOLDER = re.compile(r"cuda|cudnn|nccl|tensorrt", re.IGNORECASE)
_OFF = ("", "0")


def _library_path(case: Case) -> Iterator[Judgement]:
    """Wheels have DT_RPATH, which goes before LD_LIBRARY_PATH: its presence is a fact, and no fault."""
    entries = [
        entry for entry in case.facts.variables.get("LD_LIBRARY_PATH", "").split(":") if _CUDA_FOLDER.search(entry)
    ]
    preload = case.facts.variables.get("LD_PRELOAD", "").strip()
    if entries:
        words = f"LD_LIBRARY_PATH has {', '.join(entries)}; PyTorch's wheels look at their own libraries first"
        yield info(
            words,
            source=_ENVIRONMENT,
            subject="LD_LIBRARY_PATH",
            command="env -u LD_LIBRARY_PATH envforge verify --env",
        )
    if preload:
        words = f"LD_PRELOAD loads {preload} into every program"
        yield info(words, source=_ENVIRONMENT, subject="LD_PRELOAD", command="env -u LD_PRELOAD envforge verify --env")
    if not entries and not preload:
        yield passed("no library path of CUDA and no LD_PRELOAD is set", source=_ENVIRONMENT)


def _hurting(case: Case) -> Iterator[Judgement]:
    found = False
    for name, row in hurting_variables().items():
        value = case.facts.variables.get(name)
        if value is None or (
            value != row.only if row.only is not None else value.strip() in _OFF and not _counts_off(name)
        ):
            continue
        found = True
        yield warn(
            f"{name}={value}: {row.effect}",
            wanted="not set",
            source=_ENVIRONMENT,
            subject=name,
            command=f"unset {name}",
        )
    if not found:
        yield passed(
            f"none of {len(hurting_variables())} variables that slow training or change its numbers is set",
            source=_ENVIRONMENT,
        )


def _overrides(case: Case) -> Iterator[Judgement]:
    stated = [name for name in OVERRIDES if name in case.facts.variables]
    for name in stated:
        words = f"{name}={case.facts.variables[name]} is set: conda and `envforge lock` go by it, verify by the machine"
        yield info(words, source=_ENVIRONMENT, subject=name, command=f"unset {name}")
    if not stated:
        yield passed("nothing is stated in place of the machine", source=_ENVIRONMENT)


def _counts_off(name: str) -> bool:
    """Of these variables 0 does something too: it forces TF32 off."""
    return name == "NVIDIA_TF32_OVERRIDE"


CHECKS = (
    Check(
        id="library-path",
        question="machine",
        group="variables",
        title="no foreign CUDA library stands first",
        why="Other libraries can be taken than those of the lock; what is mapped decides, which verify --env looks at",
        severity=Verdict.INFO,
        judge=judged(_library_path),
        row=33,
    ),
    Check(
        id="slow-variables",
        question="machine",
        group="variables",
        title="no variable slows training",
        why="Left over from a search for a fault, such variables slow every run or change its numbers, without a word",
        severity=Verdict.WARN,
        judge=judged(_hurting),
        row=47,
    ),
    Check(
        id="overrides-set",
        question="machine",
        group="variables",
        title="nothing is stated in place of the machine",
        why="CONDA_OVERRIDE_CUDA and its like make a lock that is not for this machine look as if it were",
        severity=Verdict.INFO,
        judge=judged(_overrides),
    ),
)
