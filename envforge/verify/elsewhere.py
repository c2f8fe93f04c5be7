"""Compare a lockfile with a machine that is only described: a record of ``envforge detect``, or a profile.

The result is a ``Record`` like any other, so that every report, ``--from``, and ``compare`` can read it. Its ``asked``
names the machine and the checks that a description can answer; signals that only the machine itself has are unreadable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from envforge import __version__
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.install.variant_files import FOLDER, LOCK_NAME, list_variants
from envforge.install.variants import choose_variant
from envforge.machine import Machine
from envforge.machine.record import machine_to_json
from envforge.verify.machine.facts import DriverFacts, LockNeeds, MachineFacts, SystemFacts
from envforge.verify.machine.judging import CONDITION_CHECKS
from envforge.verify.machine.lock_needs import read_lock_needs
from envforge.verify.record import Asked, Observed, Record
from envforge.verify.select import choose
from envforge.verify.situation import Place, project_and_lock, project_facts
from envforge.verify.values import Check, Signal

# what a description of a machine can answer; each condition that it names adds its own check
_ALWAYS = ("lock-usable", "gpu-missing")
_GROUP = "compatibility"


def plan_for(
    machine: Machine, asked: Asked, place: Place, checks: Sequence[Check], now: datetime
) -> tuple[tuple[Check, ...], Record]:
    """Return the checks that the description can answer, and the record to judge.

    Raises ``RequestError`` if there is no lockfile, or if ``--only`` names a check that needs the machine itself.
    """
    possible = _possible(machine, checks)
    only = _only(asked, possible, checks)
    asked = replace(asked, explicit=("machine",), depth="default", only=only)
    project, lock = project_and_lock(place, machine.platform)
    if place.lock is None and place.variant is None and project is not None:
        lock = _lock_for(project, machine) or lock
    if lock is None:
        raise RequestError(
            f"no lockfile to compare with `{asked.machine}`: neither the current directory nor a parent directory is a "
            "project",
            hint="change to a project directory, or pass `--lock FILE`",
            code="no-lockfile",
        )
    facts = project_facts(project, lock, machine.platform)
    is_usable = facts.lock_unreadable is None
    record = Record(
        envforge=__version__,
        created_at=now,
        asked=asked,
        observed=(Observed(what="machine", seconds=0.0),),
        project=facts,
        machine=_described(machine, read_lock_needs(lock if is_usable else None, machine.platform)),
    )
    return choose(asked, checks).checks, record


def _possible(machine: Machine, checks: Iterable[Check]) -> tuple[str, ...]:
    named = {CONDITION_CHECKS[found.code] for found in machine.conditions if found.code in CONDITION_CHECKS}
    return tuple(check.id for check in checks if check.group == _GROUP or check.id in {*_ALWAYS, *named})


def _only(asked: Asked, possible: tuple[str, ...], checks: Sequence[Check]) -> tuple[str, ...]:
    """Return the words for ``asked.only``: short if nothing was chosen, so that reports stay readable."""
    if not asked.only:
        in_group = {check.id for check in checks if check.group == _GROUP}
        return (_GROUP, *(name for name in possible if name not in in_group))
    choose(asked, checks)  # raises if a word is unknown
    kept = [check.id for check in checks if check.id in possible and {check.id, check.group} & {*asked.only}]
    if not kept:
        raise RequestError(
            f"`--only {' '.join(asked.only)}` requires the machine itself; from a description, envforge can check: "
            f"{', '.join(possible)}",
            hint=(
                Hint("to run these checks on this machine, omit `--machine`"),
                Hint("to check the lockfile against the description, omit `--only`"),
            ),
            code="nothing-to-check",
        )
    return tuple(kept)


def _lock_for(project: Path, machine: Machine) -> Path | None:
    """Return the lockfile that ``envforge install`` would select on that machine; if none fits, the first one."""
    variants = list_variants(project)
    if not variants:
        return None
    try:
        return choose_variant(project, machine).lockfile
    except EnvforgeError:
        own = project / LOCK_NAME
        return own if own.exists() else project / FOLDER / variants[0] / LOCK_NAME


def _described(machine: Machine, lock: Signal[LockNeeds]) -> MachineFacts:
    reason = "not included in the description of the machine"
    system = SystemFacts(
        container=machine.container,
        is_wsl=machine.is_wsl,
        cpu=Signal(unreadable=f"instruction sets: {reason}"),
        memory_limit=Signal(unreadable=reason),
    )
    driver = DriverFacts(
        kernel_module=Signal(unreadable=reason),
        nvml=Signal(unreadable=reason),
        libcuda=Signal(unreadable=reason),
    )
    return MachineFacts(machine=dict(machine_to_json(machine)), driver=driver, system=system, lock=lock)
