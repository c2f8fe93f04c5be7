"""Read what a lockfile requires of a machine, before anything is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envforge.catalogue import Requirements
from envforge.errors import EnvforgeError
from envforge.install import needs
from envforge.install.explicit import read_any_lock
from envforge.install.plan import Plan, make_plan
from envforge.lockfile import Lockfile
from envforge.requirements import requirements_of
from envforge.verify.machine.facts import NO_LOCK, LockNeeds, Needed
from envforge.verify.machine.tables import matrix
from envforge.verify.observe import Situation
from envforge.verify.values import Signal


def observe_lock(situation: Situation, platform: str) -> Signal[LockNeeds]:
    """Read the requirements of the situation's lockfile."""
    is_installed = situation.prefix is not None and (situation.prefix / "conda-meta").is_dir()
    return read_lock_needs(situation.lock, platform, is_installed=is_installed)


def read_lock_needs(lock: Path | None, platform: str, *, is_installed: bool = False) -> Signal[LockNeeds]:
    """Read the requirements of a lockfile. One that is invalid or can't be installed exactly is reported as such."""
    if lock is None:
        return Signal(unreadable=NO_LOCK)
    try:
        needs = _needs(lock, read_any_lock(lock, platform), platform)
    except EnvforgeError as error:
        return Signal(source=lock.name, unreadable=error.message)
    return Signal(value=replace(needs, is_installed=is_installed), source=lock.name)


def _needs(lock: Path, lockfile: Lockfile, platform: str) -> LockNeeds:
    if platform not in lockfile.platforms:
        return LockNeeds(platform=platform, platforms=lockfile.platforms, words="")
    plan = make_plan(lockfile, platform, lock, allow_builds=True)
    found = needs.read_needs(plan, matrix())
    build = found.build
    known = _known_sizes(lock)
    requirements = known or _requirements(lockfile, platform)
    return LockNeeds(
        platform=platform,
        platforms=lockfile.platforms,
        words=requirements.words,
        torch=str(build.torch) if build else _torch(plan),
        tag=str(build.tag) if build else None,
        glibc=_needed(found.glibc),
        cuda=_needed(found.cuda),
        capabilities=tuple(map(str, build.capabilities)) if build else (),
        ptx=tuple(map(str, build.ptx)) if build else (),
        misplaced=found.misplaced,
        download_bytes=requirements.download_bytes,
        files=requirements.files,
        files_sized=requirements.files_sized,
    )


def _requirements(lockfile: Lockfile, platform: str) -> Requirements:
    sizes: Mapping[str, int] = {}  # a lockfile has no sizes
    return requirements_of(lockfile, platform, matrix(), sizes)


def _known_sizes(lock: Path) -> Requirements | None:
    """Return the requirements with sizes, if the built-in catalogue has this lockfile."""
    from envforge.catalogue.index import entries  # noqa: PLC0415 - only a lockfile needs it
    from envforge.resources import lockfiles_root  # noqa: PLC0415

    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    try:
        stored = entries(lockfiles_root())
    except EnvforgeError:
        return None  # without the catalogue the sizes are unknown
    return next((entry.requirements for entry in stored if entry.sha256 == digest), None)


def _needed(found: needs.Needed | None) -> Needed | None:
    return None if found is None else Needed(version=str(found.version), package=found.package)


def _torch(plan: Plan) -> str | None:
    names = ("torch", "pytorch")
    return next((a.package.version for a in (*plan.wheels, *plan.conda) if a.package.name in names), None)
