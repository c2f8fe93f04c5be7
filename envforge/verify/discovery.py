"""Determine which project, lockfile, environment, and machine `verify` checks.

A missing or invalid file is not an error here but a fact, so that a report can be written about the rest.

The result is a ``Record`` like any other, so that every report, ``--from``, and ``compare`` can read it. Its ``asked``
names the machine and the checks that a description can answer; signals that only the machine itself has are unreadable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from envforge import __version__
from envforge.base.files import regular
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.lockfile import Lockfile, LockfileError, list_variants, repair_hints
from envforge.lock.needs import choose_variant, requirements_of
from envforge.lock.plan import parse_any_lock
from envforge.lock.project import LOCK_FILE, VARIANTS_DIRECTORY, lock_command, platform_hints, project_folder
from envforge.machine.evidence import conda_subdir
from envforge.machine.values import Machine
from envforge.machine.world import World
from envforge.prefix.journal import read_journal
from envforge.prefix.locate import ChosenEnvironment, check_usable, chosen_environment
from envforge.verify.checks import ChosenChecks, choose
from envforge.verify.environment.observe import prefix_state
from envforge.verify.machine.case import CONDITION_CHECKS
from envforge.verify.machine.facts import DriverFacts, LockNeeds, MachineFacts, SystemFacts
from envforge.verify.machine.observe import read_lock_needs
from envforge.verify.machine.reference_data import matrix
from envforge.verify.observe import Situation, Surroundings
from envforge.verify.record import Asked, NotObserved, Observed, ProjectFacts, Record
from envforge.verify.values import QUESTIONS, Check, Question, Signal

_IN_PROJECT = "cd PROJECT && envforge verify"


class Place(Struct, frozen=True, kw_only=True):
    """Where to look: the current directory, and the options that name an environment or a lockfile."""

    folder: Path
    prefix: Path | None = None
    name: str | None = None
    lock: Path | None = None
    variant: str | None = None


class RunContext(Struct, frozen=True, kw_only=True):
    """What a run uses: the computer, the current time, the time limit of each process, and the progress callback."""

    world: World
    now: datetime
    limit_s: float
    say: Callable[[str], None]


def find_situation(
    place: Place, asked: Asked, chosen: ChosenChecks, context: RunContext
) -> tuple[Situation, Surroundings]:
    """Find the project, its lockfile, and its environment, and select the questions that can be answered."""
    platform = conda_subdir(context.world.system, context.world.architecture)
    project = project_folder(place.folder)
    meant = _meant(place, project)
    lock = _lock(place, project, meant, platform)
    facts = project_facts(project, lock, platform) if project is not None or lock is not None else None
    absent = tuple(_lacks(project, meant, chosen.questions))
    missing = {lack.what for lack in absent}
    usable = meant is not None and not any(lack.what == "environment" for lack in _lacks(project, meant, QUESTIONS))
    situation = Situation(
        world=context.world,
        now=context.now,
        folder=place.folder,
        project=project,
        lock=lock if facts is not None and facts.lock_unreadable is None else None,
        prefix=meant.prefix if meant is not None and usable else None,
        questions=tuple(question for question in chosen.questions if question not in missing),
        depth=chosen.depth,
        limit_s=context.limit_s,
        needs=chosen.needs,
        say=context.say,
    )
    return situation, Surroundings(asked=asked, project=facts, absent=absent)


def _meant(place: Place, project: Path | None) -> ChosenEnvironment | None:
    if place.prefix is None and place.name is None and project is None:
        return None
    return chosen_environment(place.prefix, place.name, place.folder)


def _lock(place: Place, project: Path | None, meant: ChosenEnvironment | None, platform: str) -> Path | None:
    """Return the requested lockfile, else the one that the environment was made from, else the project's only one."""
    if place.lock is not None:
        return place.lock
    if place.variant is not None:
        from envforge.lock.needs import variant_lock  # noqa: PLC0415 - only variants need it

        return variant_lock(project or place.folder, place.variant, platform)
    # before the lockfile of the project, because a variant may be installed
    made_from = _made_from(meant)
    if made_from is not None:
        return made_from
    if project is None:
        return None
    variants = list_variants(project)
    if not (project / LOCK_FILE).exists() and len(variants) == 1:
        return project / VARIANTS_DIRECTORY / variants[0] / LOCK_FILE
    return project / LOCK_FILE


def _made_from(meant: ChosenEnvironment | None) -> Path | None:
    if meant is None:
        return None
    try:
        journal = read_journal(meant.prefix)
    except EnvforgeError:
        return None  # the environment has its own finding for an invalid journal
    lock = Path(journal.lockfile) if journal is not None else None
    # the project may have been moved or removed since
    return lock if lock is not None and lock.is_file() else None


def project_facts(project: Path | None, lock: Path | None, platform: str) -> ProjectFacts:
    """Return what the project and its lockfile contain; ``lock_unreadable`` is the reason if there is no usable one."""
    facts = _of_project(project)
    if lock is None:
        return facts
    shown = _shown(lock, project)
    facts = replace(
        facts, lock_file=shown, variant=lock.parent.name if lock.parent.parent.name == VARIANTS_DIRECTORY else None
    )
    try:
        data = regular(lock).read_bytes()
        locked = parse_any_lock(data.decode("utf-8"), shown, platform, lock)
        _require_platform(locked, lock, shown, platform)
        needs = requirements_of(locked, platform, matrix()).words
    except OSError as error:
        message = f"failed to read the lockfile `{lock}`: {error.strerror or error}"
        return replace(facts, lock_unreadable=message, lock_command=lock_command(lock))
    except UnicodeDecodeError as error:
        command = next((hint.command for hint in repair_hints(lock)), "")
        return replace(facts, lock_unreadable=f"the lockfile `{shown}` is not UTF-8: {error}", lock_command=command)
    except EnvforgeError as error:
        return replace(facts, lock_unreadable=error.message, lock_command=next(iter(error.commands), ""))
    return replace(
        facts, lock_sha256=hashlib.sha256(data).hexdigest(), lock_platforms=locked.platforms, lock_needs=needs
    )


def _of_project(project: Path | None) -> ProjectFacts:
    if project is None:
        return ProjectFacts()
    from envforge.project.record import read_project_file  # noqa: PLC0415 - imports all of templates' questions

    try:
        record = read_project_file(project)
    except EnvforgeError:
        record = None  # training has its own finding: it can't start without
    if record is None:
        return ProjectFacts(name=project.name)
    return ProjectFacts(
        name=record.project, package=record.package, template=f"{record.template} {record.template_version}"
    )


def _require_platform(locked: Lockfile, lock: Path, shown: str, platform: str) -> None:
    if platform in locked.platforms:
        return
    names = ", ".join(f"`{name}`" for name in locked.platforms) or "no platform"
    raise LockfileError(
        f"the platform `{platform}` is not in the lockfile `{shown}`, which is for {names}",
        hint=platform_hints(lock, locked.platforms, platform),
        code="platform-not-locked",
    )


def _shown(lock: Path, project: Path | None) -> str:
    """Return the path to show: relative to the project if the lockfile is in it."""
    path = lock.absolute()
    return str(path.relative_to(project)) if project is not None and path.is_relative_to(project) else str(lock)


def _lacks(project: Path | None, meant: ChosenEnvironment | None, questions: tuple[Question, ...]) -> list[NotObserved]:
    """Return the questions that can't be answered here, each with the command that helps."""
    lack = _without_environment(meant)
    found = []
    for question in questions:
        if question == "machine":
            continue
        if lack is not None:
            found.append(NotObserved(what=question, why=lack.why, reason=lack.reason, command=lack.command))
        elif question == "training" and project is None:
            reason = "no project with a training step in the current directory or a parent directory"
            found.append(NotObserved(what=question, why="absent", reason=reason, command=_IN_PROJECT))
    return found


def _without_environment(meant: ChosenEnvironment | None) -> NotObserved | None:
    if meant is None:
        reason = "no project in the current directory or a parent directory, and neither `--prefix` nor `--name`"
        return NotObserved(what="environment", why="absent", reason=reason, command=_IN_PROJECT)
    state, text = prefix_state(meant.prefix)
    if state == "virtual":
        return None  # of venv or uv: its files aren't compared with a lockfile, but it can train
    if state == "missing" or (state == "not-an-environment" and not any(meant.prefix.iterdir())):
        reason = f"no environment is installed in `{meant.prefix}`"
        return NotObserved(what="environment", why="absent", reason=reason, command=meant.install_command)
    if state == "not-an-environment":
        return NotObserved(what="environment", why="absent", reason=text, command="envforge verify --prefix DIR")
    try:
        check_usable(meant)
    except EnvforgeError as error:
        command = next(iter(error.commands), meant.install_command)
        return NotObserved(what="environment", why="unfinished", reason=error.message, command=command)
    return None


# what a description of a machine can answer; each condition that it names adds its own check
_ALWAYS = ("lock-usable", "gpu-missing")
_GROUP = "compatibility"


def plan_for(
    machine: Machine, asked: Asked, place: Place, checks: Sequence[Check], now: datetime
) -> tuple[tuple[Check, ...], Record]:
    """Return the checks that the description can answer, and the record to judge.

    Raises ``RequestError`` if there is no lockfile, or if ``--only`` names a check that needs the machine itself.
    """
    # a description states its troubles, although it lacks the facts from which they were concluded
    named = {CONDITION_CHECKS[found.code] for found in machine.conditions if found.code in CONDITION_CHECKS}
    possible = tuple(check.id for check in checks if check.group == _GROUP or check.id in {*_ALWAYS, *named})
    only = _only(asked, possible, checks)
    asked = replace(asked, explicit=("machine",), depth="default", only=only)
    project = project_folder(place.folder)
    lock = _lock(place, project, _meant(place, project), machine.platform)
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
        refreshed_facts=matrix().refreshed,
        created_at=now,
        asked=asked,
        observed=(Observed(what="machine", seconds=0.0),),
        project=facts,
        machine=_described(machine, read_lock_needs(lock if is_usable else None, machine.platform)),
    )
    return choose(asked, checks).checks, record


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
        own = project / LOCK_FILE
        return own if own.exists() else project / VARIANTS_DIRECTORY / variants[0] / LOCK_FILE


def _described(machine: Machine, lock: Signal[LockNeeds]) -> MachineFacts:
    reason = "not included in the description of the machine"
    unread: Signal[Any] = Signal(unreadable=reason)
    cpu = replace(unread, unreadable=f"instruction sets: {reason}")
    system = SystemFacts(container=machine.container, is_wsl=machine.is_wsl, cpu=cpu, memory_limit=unread)
    driver = DriverFacts(kernel_module=unread, nvml=unread, libcuda=unread)
    return MachineFacts(machine=machine, driver=driver, system=system, lock=lock)
