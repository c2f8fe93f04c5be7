"""Compare a prefix with its lockfile, and install what differs.

``apply`` changes the prefix; it is imported only if there is something to change.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from envforge.errors import EnvforgeError, Hint
from envforge.lock.lockfile import Lockfile, Manager
from envforge.lock.needs import asks_driver, concerns, describe, read_needs, unmet
from envforge.lock.plan import Plan, make_plan, read_any_lock, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY, is_environment
from envforge.prefix.cache import Store, default_root, in_use
from envforge.prefix.installed import (
    conda_owners,
    editable_installs,
    pip_installed,
    read_conda,
    read_distributions,
    site_packages_of,
)
from envforge.prefix.journal import Journal, journal_path, lock_prefix, read_journal, write_journal
from envforge.prefix.own_files import note_editables
from envforge.prefix.values import (
    Changes,
    InstallProgress,
    InstallReport,
    InstallRequest,
    PlannedPackage,
    Preview,
    Silent,
)
from envforge.prefix.venv import is_venv_of, seed_packages, venv_python

if TYPE_CHECKING:
    from rattler import PrefixRecord


def install(request: InstallRequest, progress: InstallProgress | None = None) -> InstallReport:
    """Make a prefix match its lockfile; an interrupted install is completed."""
    progress = progress or Silent()
    request, lockfile, plan = _planned(request, progress)
    prefix = request.prefix
    existed = prefix.exists()
    try:
        with lock_prefix(prefix, progress):
            before = read_journal(prefix)
            if before is not None and not request.reinstall and _matches(before, plan, prefix):
                note_editables(editable_installs(prefix).items(), progress)
                now = replace(before, categories=request.categories, variables=lockfile.variables)
                if now != before:
                    write_journal(prefix, now)
                return _unchanged(request, plan)
            with in_use(_store(request).root):
                return _changed(request, lockfile, plan, progress, before)
    except BaseException:
        _leave_no_trace(prefix, existed=existed)
        raise


def preview(request: InstallRequest, progress: InstallProgress | None = None) -> Preview:
    """Return what ``install`` would do, without writing anything."""
    progress = progress or Silent()
    request, _, plan = _planned(request, progress)
    before = read_journal(request.prefix)
    if before is not None and not request.reinstall and _matches(before, plan, request.prefix):
        return Preview(
            prefix=request.prefix,
            lockfile=request.lockfile,
            platform=plan.platform,
            unchanged=len(plan.conda) + len(plan.wheels),
            warnings=plan.warnings,
        )
    _check_machine(request, plan, progress)
    todo, store = _needed_changes(plan, before, request), _store(request)
    artifacts = (*todo.conda, *todo.wheels)
    sizes = {artifact: size for artifact in artifacts if (size := store.cached_bytes(artifact)) is not None}
    cached = set(sizes)
    missing = tuple(artifact for artifact in artifacts if artifact not in cached)
    if missing:
        from envforge.prefix.fetch import sizes_of  # noqa: PLC0415 - imports an HTTP client

        sizes |= sizes_of(missing, request, progress)
    return Preview(
        prefix=request.prefix,
        lockfile=request.lockfile,
        platform=plan.platform,
        files=tuple(
            PlannedPackage(label=artifact.label, is_cached=artifact in cached, bytes=sizes.get(artifact))
            for artifact in artifacts
        ),
        removed=(*todo.conda_removed, *todo.wheels_removed),
        unchanged=len(plan.conda) + len(plan.wheels) - len(artifacts),
        warnings=plan.warnings,
    )


def _planned(request: InstallRequest, progress: InstallProgress) -> tuple[InstallRequest, Lockfile, Plan]:
    """Return the request with an absolute prefix, the lockfile, and the plan.

    Raises ``EnvforgeError`` for a foreign prefix.
    """
    # packages record the prefix, so it may not contain `..`
    request = replace(request, prefix=Path(os.path.abspath(request.prefix)))  # noqa: PTH100 - keep symbolic links
    lockfile = read_any_lock(request.lockfile, request.platform)
    plan = make_plan(
        lockfile,
        request.platform,
        request.lockfile,
        allow_builds=request.allow_builds,
        categories=request.categories,
    )
    request = replace(request, access_variables=lockfile.access_variables)
    for warning in plan.warnings:
        progress.note(f"warning: {warning}")
    _refuse_foreign(request)
    return request, lockfile, plan


def _leave_no_trace(prefix: Path, *, existed: bool) -> None:
    """Remove the directory of the lock file unless the prefix has a journal or another install holds it."""
    if journal_path(prefix).exists() or (prefix / ENVFORGE_DIRECTORY / "holder").exists():
        return
    shutil.rmtree(prefix / ENVFORGE_DIRECTORY, ignore_errors=True)
    if not existed and prefix.is_dir() and not any(prefix.iterdir()):
        prefix.rmdir()


def _refuse_foreign(request: InstallRequest) -> None:
    prefix = request.prefix
    if request.force or not prefix.exists():
        return
    if not prefix.is_dir():
        raise EnvforgeError(
            f"`{prefix}` is not a directory",
            hint="to install into another directory, pass `--prefix DIR`",
            code="prefix-not-a-folder",
        )
    if any(prefix.iterdir()) and not (prefix / ENVFORGE_DIRECTORY).is_dir():
        adopt = shlex.join(["envforge", "audit", str(request.lockfile), "--adopt", "--prefix", str(prefix)])
        hint = "to install into another directory, pass `--prefix DIR`; to change the packages in this one, pass "
        raise EnvforgeError(
            f"`{prefix}` is not empty, and envforge did not create it",
            hint=(
                Hint(f"{hint}`--force`"),
                *([Hint("to manage it with envforge if it already matches", adopt)] if is_environment(prefix) else []),
            ),
            code="prefix-foreign",
        )


def _check_machine(request: InstallRequest, plan: Plan, progress: InstallProgress) -> None:
    """Raise ``EnvforgeError`` if the machine doesn't meet the requirements, before anything is downloaded."""
    if request.machine is None:
        return
    driver = asks_driver(plan)
    matrix = None
    if driver:
        from envforge.pytorch.matrix import load_matrix  # noqa: PLC0415 - only CUDA needs it

        matrix = load_matrix()
    machine = request.machine(driver=driver)
    needs = read_needs(plan, matrix)
    reasons = unmet(needs, machine, matrix)
    for text in (*concerns(needs, machine), *(reasons if request.ignore_machine else ())):
        progress.note(f"warning: {text}")
    if reasons and not request.ignore_machine:
        raise EnvforgeError(
            f"this machine doesn't meet the requirements of `{request.lockfile}` ({describe(needs, matrix)}):"
            + "".join(f"\n  {reason}" for reason in reasons),
            hint=(
                Hint("to see which builds this machine supports", "envforge explain"),
                Hint("to install anyway, pass `--ignore-machine`"),
            ),
            code="machine-unfit",
        )


def _unchanged(request: InstallRequest, plan: Plan) -> InstallReport:
    return InstallReport(
        prefix=request.prefix,
        lockfile=request.lockfile,
        platform=plan.platform,
        outcome="unchanged",
        unchanged=len(plan.conda) + len(plan.wheels),
        warnings=plan.warnings,
    )


def _changed(
    request: InstallRequest, lockfile: Lockfile, plan: Plan, progress: InstallProgress, before: Journal | None
) -> InstallReport:
    """Make the changes that the prefix needs."""
    from envforge.prefix.apply import Installation  # noqa: PLC0415 - imports rattler, uv, and an HTTP client

    _check_machine(request, plan, progress)
    work = Installation(
        request=request,
        lockfile=lockfile,
        plan=plan,
        progress=progress,
        before=before,
        store=_store(request),
        todo=_needed_changes(plan, before, request),
        is_created=_is_created(before, request.prefix),
    )
    with work.removals:
        return work.run()


def _store(request: InstallRequest) -> Store:
    return Store((request.cache or default_root()).absolute())


def _compute_changes(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    reinstall: Collection[tuple[Manager, str]] = (),
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
    # only the journal has the checksum of an installed wheel; its own metadata states none
    known = {wheel.name: wheel for wheel in (journal.wheels if journal else ()) if wheel.name in trusted}
    python_kept = "python" in same or "python" not in wanted
    names = {wheel_of(artifact).name for artifact in plan.wheels}
    return Changes(
        conda=tuple(artifact for name, artifact in wanted.items() if name not in kept),
        conda_kept=tuple(sorted(kept)),
        conda_removed=tuple(sorted(set(conda) - set(wanted))),
        # site-packages belongs to one Python, so another Python needs all wheels again
        wheels=tuple(a for a in plan.wheels if not python_kept or known.get(wheel_of(a).name) != wheel_of(a)),
        wheels_removed=tuple(sorted(wheels - names)),
    )


def _matches(journal: Journal, plan: Plan, prefix: Path) -> bool:
    """Return whether a complete prefix has the planned packages, judged by names only; ``audit`` reads the files."""
    if journal.step != "verified" or journal.fingerprint != plan.fingerprint or journal.was_moved(prefix):
        return False
    # conda and mamba change an environment without changing the journal
    if tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json"))) != plan.records:
        return False
    if plan.python is not None and not is_venv_of(prefix, plan.python):
        return False
    wheels = frozenset(wheel.name for wheel in journal.wheels)
    return wheels == _found_wheels(prefix, journal, wheels) - editable_installs(prefix).keys()


def _found_wheels(prefix: Path, journal: Journal | None, locked: Collection[str]) -> frozenset[str]:
    """Return what pip or uv installed, without the packages that a virtual environment of another tool began with."""
    return pip_installed(prefix) - (seed_packages(prefix, is_created=_is_created(journal, prefix)) - frozenset(locked))


def _is_created(journal: Journal | None, prefix: Path) -> bool:
    """Return whether the prefix belongs to envforge: it created the prefix, or the prefix is new or empty."""
    if journal is not None:
        return journal.created
    return not prefix.exists() or all(path.name == ENVFORGE_DIRECTORY for path in prefix.iterdir())


def _needed_changes(plan: Plan, journal: Journal | None, request: InstallRequest) -> Changes:
    """Return what must change, given what the prefix can be trusted to contain."""
    prefix = request.prefix
    editable = {name for name in editable_installs(prefix) if ("pip", name) not in request.reinstall}
    locked = {wheel_of(artifact).name for artifact in plan.wheels}
    everything = _compute_changes(plan, None, {}, frozenset())
    created, stands = _is_created(journal, prefix), _conda_stands(journal, plan)
    # an environment that envforge began is emptied and linked again, which takes seconds with a cache and leaves
    # nothing half-linked; in a directory taken with `--force`, files of no package are kept
    if (created and not stands) or (journal is not None and journal.was_moved(prefix)):
        return everything
    # or a conda environment for a pylock.toml, or the reverse
    is_other_python = not is_venv_of(prefix, plan.python) if plan.python else venv_python(prefix) is not None
    if created and is_other_python:
        return everything
    from envforge.prefix.conda_packages import read_records  # noqa: PLC0415 - imports rattler; a new prefix has none

    records = {record.name.normalized: record for record in read_records(prefix)}
    python = next((a.package.version for a in plan.conda if a.package.name == "python"), None)
    # another minor version has another site-packages, which nothing would empty
    if created and _minor(python) != _minor(_version(records.get("python"))):
        return everything
    conda = {name: _checksums(record) if journal is None or stands else frozenset() for name, record in records.items()}
    trusted = journal if journal is not None and journal.step == "verified" else None
    wheels = _found_wheels(prefix, journal, locked) - editable
    changes = _with_shared_files(plan, trusted, conda, wheels, request)
    return replace(changes, venv_kept=plan.python is not None and not is_other_python)


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
    changes = _compute_changes(plan, journal, conda, wheels, again)
    if not (changes.conda or changes.conda_removed or changes.wheels or changes.wheels_removed):
        return changes
    shared = _shared(request.prefix)
    # what is linked again may share files with further packages, so this repeats until nothing is added
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
        changes = _compute_changes(plan, journal, conda, wheels, again)


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
