"""Provide the commands as functions: each takes plain values, returns one frozen value, and prints nothing.

Every function raises ``EnvforgeError``, with a message, hints, and a code, if it can't do what was requested. Paths may
be strings. Nothing is imported until it is used, because ``import envforge`` must be fast.
"""

from __future__ import annotations

import datetime as dt
import os
import platform as host
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from envforge.lock.consistency import Difference
    from envforge.lock.request import LockReport
    from envforge.machine.values import Machine
    from envforge.prefix.audit import AuditReport
    from envforge.prefix.values import InstallReport
    from envforge.project.create import BuildQuery, Created
    from envforge.pytorch.matrix import Selection
    from envforge.verify.values import Report

__all__ = [
    "EnvforgeError",
    "audit_environment",
    "check_lockfile",
    "create_project",
    "detect_machine",
    "install_environment",
    "lock_environment",
    "select_builds",
    "verify_environment",
]

Anywhere = str | os.PathLike[str]


def detect_machine(profile: str | None = None) -> Machine:
    """Return this computer, or the machine of a profile such as ``t4`` or of a record of ``envforge detect --json``."""
    from envforge.machine.record import load_machine

    return load_machine(profile, os.environ)


def select_builds(
    machine: Machine | None = None,
    *,
    cuda: str = "auto",
    torch: str | None = None,
    python: str | None = None,
    platforms: Iterable[str] = (),
) -> tuple[Selection, ...]:
    """Return the best PyTorch build for each platform, with its reason and the reasons against all others.

    ``machine`` defaults to this computer, ``platforms`` to its platform. Versions are those of the command line, such
    as ``11.8`` or ``cpu`` for ``cuda``, and ``2.7`` for ``torch``.
    """
    return _query(machine, cuda=cuda, torch=torch, python=python, platforms=platforms).select()


def create_project(
    template: str,
    directory: Anywhere,
    *,
    machine: Machine | None = None,
    cuda: str = "auto",
    torch: str | None = None,
    python: str | None = None,
    platforms: Iterable[str] = (),
    name: str | None = None,
    answers: Mapping[str, str | int | bool] | None = None,
    groups: Iterable[str] = (),
    lock: bool = True,
    force: bool = False,
    dry_run: bool = False,
) -> Created:
    """Create a project in ``directory``, in one transaction; return its files, its builds, and its lockfile.

    ``template`` is a built-in template, a directory (``./DIR``), or a git repository (``git+https://…@REV``).
    ``answers`` are answers to its questions; all others get their defaults. ``groups`` are the file groups to add. The
    lockfile comes from a catalogue or is solved; with ``lock=False``, there is none. ``force`` writes into a directory
    that isn't empty. With ``dry_run``, nothing is written or solved.
    """
    from envforge.catalogue.index import chosen_catalogue
    from envforge.project.create import LockWay, NewRequest, create
    from envforge.project.questions import shown

    request = NewRequest(
        target=Path(os.path.abspath(directory)),  # noqa: PTH100 - a symbolic link must stay one, to be rejected
        query=_query(machine, cuda=cuda, torch=torch, python=python, platforms=platforms),
        name=name,
        variables=tuple(f"{key}={shown(value)}" for key, value in (answers or {}).items()),
        with_groups=tuple(groups),
        way=LockWay(wanted=lock, dry_run=dry_run, team=chosen_catalogue(None, Path(), os.environ) if lock else None),
        force=force,
        dry_run=dry_run,
    )
    return create(template, request, _ignore)


def lock_environment(
    environment: Anywhere = "environment.yml",
    *,
    lockfile: Anywhere | None = None,
    platforms: Iterable[str] = (),
    upgrade: bool = False,
    upgrade_packages: Iterable[str] = (),
) -> LockReport:
    """Solve an environment.yml into its lockfile, by default the conda-lock.yml next to it; return what changed.

    A lockfile that is up to date is left alone. Otherwise, locked versions are kept if the requirements allow, unless
    ``upgrade`` or ``upgrade_packages`` releases them.
    """
    from envforge.lock.locking import lock
    from envforge.lock.request import LockRequest

    source = Path(environment)
    request = LockRequest(
        environment=source,
        lockfile=source.with_name("conda-lock.yml") if lockfile is None else Path(lockfile),
        platforms=tuple(platforms),
        upgrade=upgrade,
        upgrade_packages=tuple(upgrade_packages),
    )
    return lock(request, _ignore)


def check_lockfile(
    environment: Anywhere = "environment.yml", *, lockfile: Anywhere | None = None
) -> tuple[Difference, ...]:
    """Return every difference between an environment.yml and its lockfile; empty if the lockfile is up to date."""
    from envforge.lock.check import check_lock

    source = Path(environment)
    return check_lock(source, source.with_name("conda-lock.yml") if lockfile is None else Path(lockfile))


def install_environment(
    lockfile: Anywhere = "conda-lock.yml",
    prefix: Anywhere = ".conda",
    *,
    platform: str | None = None,
    offline: bool = False,
    force: bool = False,
    ignore_machine: bool = False,
    cache: Anywhere | None = None,
) -> InstallReport:
    """Create or update the environment in ``prefix``, exactly as locked; every file is verified.

    ``offline`` uses only the cache and local mirrors. ``force`` installs into a directory that envforge did not create.
    ``ignore_machine`` turns requirements that this machine doesn't meet into warnings.
    """
    from envforge.base.urls import Mirrors
    from envforge.prefix.install import install
    from envforge.prefix.values import InstallRequest

    request = InstallRequest(
        lockfile=Path(lockfile),
        prefix=Path(prefix),
        platform=platform or _platform(),
        offline=offline,
        force=force,
        mirrors=Mirrors.from_environment(os.environ),
        cache=None if cache is None else Path(cache),
        machine=_machine_here,
        ignore_machine=ignore_machine,
    )
    return install(request)


def audit_environment(
    prefix: Anywhere = ".conda", *, lockfile: Anywhere | None = None, full: bool = False
) -> AuditReport:
    """Compare every package and file of an environment with its lockfile, by default the one it was created from.

    ``full`` reads every file again, even those that are unchanged since the last audit.
    """
    from envforge.prefix.audit import AuditRequest, audit

    return audit(
        AuditRequest(
            prefix=Path(prefix), platform=_platform(), lockfile=None if lockfile is None else Path(lockfile), full=full
        )
    )


def verify_environment(
    directory: Anywhere = ".",
    *,
    prefix: Anywhere | None = None,
    lockfile: Anywhere | None = None,
    depth: Literal["fast", "default", "deep"] = "default",
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    limit_s: float = 120.0,
) -> Report:
    """Check whether this machine, and the project around ``directory`` and its environment, can train.

    ``only`` and ``skip`` are IDs of checks or groups. ``limit_s`` limits each process that a check starts, in seconds.
    The report isn't redacted.
    """
    from envforge.machine.world import World
    from envforge.verify.checks import all_checks, choose, judge
    from envforge.verify.discovery import Place, RunContext, find_situation
    from envforge.verify.observe import observe
    from envforge.verify.record import Asked

    asked = Asked(explicit=(), depth=depth, only=tuple(only), skip=tuple(skip), machine="")
    chosen = choose(asked, all_checks())
    place = Place(
        folder=Path(directory).absolute(),
        prefix=None if prefix is None else Path(prefix),
        name=None,
        lock=None if lockfile is None else Path(lockfile),
        variant=None,
    )
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    context = RunContext(world=World.here(os.environ), now=now, limit_s=limit_s, say=_ignore)
    situation, surroundings = find_situation(place, asked, chosen, context)
    return judge(observe(situation, surroundings, chosen.checks), chosen.checks)


def _query(
    machine: Machine | None, *, cuda: str, torch: str | None, python: str | None, platforms: Iterable[str]
) -> BuildQuery:
    from envforge.project.create import BuildQuery
    from envforge.pytorch.matrix import load_matrix
    from envforge.pytorch.select import known_platforms, read_request

    matrix = load_matrix()
    return BuildQuery(
        machine=machine or detect_machine(),
        request=read_request(matrix, cuda=cuda, torch=torch, python=python),
        platforms=known_platforms(matrix, platforms),
        matrix=matrix,
    )


def _machine_here(*, driver: bool) -> Machine:
    from envforge.machine.probe import probe_system
    from envforge.machine.world import World

    return detect_machine() if driver else probe_system(World.here(os.environ))


def _platform() -> str:
    from envforge.machine.evidence import conda_subdir

    return conda_subdir(host.system(), host.machine())


def _ignore(_: object) -> None:
    """Discard a report of progress."""
