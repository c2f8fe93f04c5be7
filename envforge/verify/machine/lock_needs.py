"""What the lock needs of this machine (reads the lock; nothing is installed for it).

Enters: a ``Situation`` and this machine's platform. Leaves: ``LockNeeds``, or the reason why there are none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
    """Read the lock's needs. A lock that is damaged or cannot be installed exactly is named, not repaired."""
    if situation.lock is None:
        return Signal(unreadable=NO_LOCK)
    path = situation.lock
    try:
        lockfile = read_any_lock(path, platform)
        return Signal(value=_needs(situation, lockfile, platform), source=path.name)
    except EnvforgeError as error:
        return Signal(source=path.name, unreadable=f"{error}")


def _needs(situation: Situation, lockfile: Lockfile, platform: str) -> LockNeeds:
    if situation.lock is None or platform not in lockfile.platforms:
        return LockNeeds(platform=platform, platforms=lockfile.platforms, words="")
    plan = make_plan(lockfile, platform, situation.lock, allow_builds=True)
    found = needs.read_needs(plan, matrix())
    build = found.build
    known = _known_sizes(situation.lock)
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
        is_installed=situation.prefix is not None and (situation.prefix / "conda-meta").is_dir(),
    )


def _requirements(lockfile: Lockfile, platform: str) -> Requirements:
    sizes: Mapping[str, int] = {}  # a lock carries no sizes
    return requirements_of(lockfile, platform, matrix(), sizes)


def _known_sizes(lock: Path) -> Requirements | None:
    """The requirements with sizes, where this very lock came with envforge."""
    from envforge.catalogue.index import entries  # noqa: PLC0415 - for a lock alone
    from envforge.resources import lockfiles_root  # noqa: PLC0415

    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    try:
        stored = entries(lockfiles_root())
    except EnvforgeError:
        return None  # sizes are a help: without the catalogue the lock counts as one of unknown size
    return next((entry.requirements for entry in stored if entry.sha256 == digest), None)


def _needed(found: needs.Needed | None) -> Needed | None:
    return None if found is None else Needed(version=str(found.version), package=found.package)


def _torch(plan: Plan) -> str | None:
    names = ("torch", "pytorch")
    return next((a.package.version for a in (*plan.wheels, *plan.conda) if a.package.name in names), None)
