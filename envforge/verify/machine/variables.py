"""Check environment variables that affect training (rows 33 and 47 of the check table)."""

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
    """Report LD_LIBRARY_PATH as a fact, not a problem: the DT_RPATH of wheels has precedence."""
    entries = [
        entry for entry in case.facts.variables.get("LD_LIBRARY_PATH", "").split(":") if _CUDA_FOLDER.search(entry)
    ]
    preload = case.facts.variables.get("LD_PRELOAD", "").strip()
    if entries:
        words = f"LD_LIBRARY_PATH contains {', '.join(entries)}; PyTorch wheels search their own libraries first"
        yield info(
            words,
            source=_ENVIRONMENT,
            subject="LD_LIBRARY_PATH",
            command="env -u LD_LIBRARY_PATH envforge verify env",
        )
    if preload:
        words = f"LD_PRELOAD loads {preload} into every program"
        yield info(words, source=_ENVIRONMENT, subject="LD_PRELOAD", command="env -u LD_PRELOAD envforge verify env")
    if not entries and not preload:
        yield passed("neither a CUDA library path nor LD_PRELOAD is set", source=_ENVIRONMENT)


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
            f"none of {len(hurting_variables())} variables that slow training or change its results is set",
            source=_ENVIRONMENT,
        )


def _overrides(case: Case) -> Iterator[Judgement]:
    stated = [name for name in OVERRIDES if name in case.facts.variables]
    for name in stated:
        words = f"{name}={case.facts.variables[name]}: conda and `envforge lock` use it instead of the machine's value"
        yield info(words, source=_ENVIRONMENT, subject=name, command=f"unset {name}")
    if not stated:
        yield passed("no override is set", source=_ENVIRONMENT)


def _counts_off(name: str) -> bool:
    """Return whether the value 0 has an effect, too: NVIDIA_TF32_OVERRIDE=0 forces TF32 off."""
    return name == "NVIDIA_TF32_OVERRIDE"


CHECKS = (
    Check(
        id="library-path",
        question="machine",
        group="variables",
        title="LD_LIBRARY_PATH and LD_PRELOAD",
        why="They can replace libraries of the lockfile. `envforge verify env` checks which ones are loaded.",
        severity=Verdict.INFO,
        judge=judged(_library_path),
        row=33,
    ),
    Check(
        id="slow-variables",
        question="machine",
        group="variables",
        title="Variables that slow training",
        why="Left over from debugging, such variables slow every run or change its results, without a message.",
        severity=Verdict.WARN,
        judge=judged(_hurting),
        row=47,
    ),
    Check(
        id="overrides-set",
        question="machine",
        group="variables",
        title="Variables that override the machine",
        why="With CONDA_OVERRIDE_CUDA and similar, a lockfile that this machine can't use seems to fit.",
        severity=Verdict.INFO,
        judge=judged(_overrides),
    ),
)
