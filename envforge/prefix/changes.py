"""Compute what an install changes in a prefix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from envforge.lock.lockfile import Manager
from envforge.lock.plan import Artifact, Plan, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.installed import (
    conda_owners,
    editable_installs,
    pip_installed,
    read_conda,
    read_distributions,
    site_packages_of,
)
from envforge.prefix.journal import Journal
from envforge.prefix.values import InstallRequest
from envforge.prefix.venv import venv_python

if TYPE_CHECKING:
    from rattler import PrefixRecord

Named = frozenset[tuple[Manager, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The smallest set of changes that makes a prefix match a plan.

    ``wheels_replaced`` are uninstalled before conda packages with the same files are linked. ``editable`` contains the
    editable installs that the lockfile doesn't have, with their URLs: they are kept unless the prefix is emptied.
    """

    conda: tuple[Artifact, ...]
    conda_kept: tuple[str, ...]
    conda_removed: tuple[str, ...]
    wheels: tuple[Artifact, ...]
    wheels_removed: tuple[str, ...]
    wheels_replaced: tuple[str, ...] = ()
    editable: tuple[tuple[str, str], ...] = ()
    venv_kept: bool = False  # the prefix is a virtual environment with the Python of the lockfile


def compute_changes(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    reinstall: Named = frozenset(),
) -> Changes:
    """Compare a plan with a prefix.

    ``conda`` maps the names of the prefix's conda packages to the checksums of their archives. ``wheels`` are the
    normalized names of the distributions that pip or uv installed. ``reinstall`` lists packages to install again even
    if they match.
    """
    wanted = {artifact.package.name: artifact for artifact in plan.conda}
    same = {name for name, a in wanted.items() if a.digest.hex in conda.get(name, ())}
    kept = {name for name in same if ("conda", name) not in reinstall}
    trusted = {name for name in wheels if ("pip", name) not in reinstall}
    known = {wheel.name: wheel for wheel in (journal.wheels if journal else ()) if wheel.name in trusted}
    python_kept = "python" in same or "python" not in wanted
    names = {wheel_of(artifact).name for artifact in plan.wheels}
    return Changes(
        conda=tuple(artifact for name, artifact in wanted.items() if name not in kept),
        conda_kept=tuple(sorted(kept)),
        conda_removed=tuple(sorted(set(conda) - set(wanted))),
        wheels=tuple(a for a in plan.wheels if not python_kept or known.get(wheel_of(a).name) != wheel_of(a)),
        wheels_removed=tuple(sorted(wheels - names)),
    )


def matches(journal: Journal, plan: Plan, prefix: Path) -> bool:
    """Return whether a complete prefix has the planned packages, judged by names only; ``audit`` reads the files."""
    if journal.step != "verified" or journal.fingerprint != plan.fingerprint or journal.was_moved(prefix):
        return False
    if tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json"))) != plan.records:
        return False
    return frozenset(wheel.name for wheel in journal.wheels) == pip_installed(prefix) - editable_installs(prefix).keys()


def is_created(journal: Journal | None, prefix: Path) -> bool:
    """Return whether the prefix belongs to envforge: it created the prefix, or the prefix is new or empty."""
    if journal is not None:
        return journal.created
    return not prefix.exists() or all(path.name == ENVFORGE_DIRECTORY for path in prefix.iterdir())


def needed_changes(plan: Plan, journal: Journal | None, request: InstallRequest) -> Changes:
    """Return what must change, given what the prefix can be trusted to contain."""
    prefix = request.prefix
    editable = editable_installs(prefix)
    found = tuple(sorted((name, url) for name, url in editable.items() if ("pip", name) not in request.reinstall))
    locked = {wheel_of(artifact).name for artifact in plan.wheels}
    kept = tuple((name, url) for name, url in found if name not in locked)
    everything = replace(compute_changes(plan, None, {}, frozenset()), editable=kept)
    created, stands = is_created(journal, prefix), _conda_stands(journal, plan)
    # an environment that envforge began is emptied and linked again, which takes seconds with a cache and leaves
    # nothing half-linked; in a directory taken with `--force`, files of no package are kept
    if (created and not stands) or (journal is not None and journal.was_moved(prefix)):
        return everything
    is_other_python = venv_python(prefix) != plan.python  # or a conda environment for a pylock.toml, or the reverse
    if created and is_other_python:
        return everything
    from envforge.prefix.conda_packages import read_records  # noqa: PLC0415 - imports rattler

    records = {record.name.normalized: record for record in read_records(prefix)}
    python = next((a.package.version for a in plan.conda if a.package.name == "python"), None)
    if created and _minor(python) != _minor(_version(records.get("python"))):
        return everything
    conda = {name: _checksums(record) if journal is None or stands else frozenset() for name, record in records.items()}
    trusted = journal if journal is not None and journal.step == "verified" else None
    wheels = pip_installed(prefix) - {name for name, _ in found}
    changes = _with_shared_files(plan, trusted, conda, wheels, request)
    return replace(changes, editable=kept, venv_kept=plan.python is not None and not is_other_python)


def _with_shared_files(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    request: InstallRequest,
) -> Changes:
    """Compute the changes, and install again what a package of the other manager shares files with.

    If a wheel that replaced files of a conda package leaves, the conda package is linked again. If such a conda package
    changes, the wheel is.
    """
    again = request.reinstall
    changes = compute_changes(plan, journal, conda, wheels, again)
    if not (changes.conda or changes.conda_removed or changes.wheels or changes.wheels_removed):
        return changes
    shared = _shared(request.prefix)
    while True:
        changing = {artifact.package.name for artifact in changes.conda} | set(changes.conda_removed)
        leaving = {wheel_of(artifact).name for artifact in changes.wheels} | set(changes.wheels_removed)
        more: set[tuple[Manager, str]] = set()
        for wheel, owners in shared.items():
            if wheel in leaving:
                more |= {("conda", name) for name in owners}
            elif not changing.isdisjoint(owners):
                more.add(("pip", wheel))
        if more <= again:
            replaced = tuple(sorted(shared.keys() & leaving - set(changes.wheels_removed)))
            return replace(changes, wheels_replaced=replaced)
        again |= more
        changes = compute_changes(plan, journal, conda, wheels, again)


def _shared(prefix: Path) -> dict[str, frozenset[str]]:
    conda = read_conda(prefix)
    site_packages = site_packages_of(conda, prefix)
    return conda_owners(conda, read_distributions(prefix, site_packages, conda)) if site_packages else {}


def _conda_stands(journal: Journal | None, plan: Plan) -> bool:
    """Return whether the journal shows that the conda packages are intact, those of this lockfile or of any."""
    if journal is None or journal.step == "planned":
        return False
    return journal.step == "verified" or journal.fingerprint == plan.fingerprint


def _checksums(record: PrefixRecord) -> frozenset[str]:
    """Return the checksums that a lockfile may state for a linked archive."""
    return frozenset(digest.hex() for digest in (record.sha256, record.md5) if digest)


def _version(record: PrefixRecord | None) -> str | None:
    return None if record is None else str(record.version)


def _minor(version: str | None) -> tuple[str, ...]:
    return tuple((version or "").split(".")[:2])
