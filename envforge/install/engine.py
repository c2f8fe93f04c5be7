"""Run one install: check the request, return early if the prefix matches, and otherwise run the steps."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from envforge.errors import EnvforgeError
from envforge.install.cached import Reader
from envforge.install.explicit import read_any_lock
from envforge.install.holding import held
from envforge.install.journal import FOLDER, Journal, journal_path, read_journal
from envforge.install.plan import Plan, make_plan
from envforge.install.site import pip_installed
from envforge.install.store import Store, default_root
from envforge.install.usage import in_use
from envforge.install.values import InstallReport, InstallRequest, Preview, Progress

if TYPE_CHECKING:
    from envforge.install.steps import Installation


def run(request: InstallRequest, progress: Progress) -> InstallReport:
    """Install; see ``envforge.install.install``."""
    request, plan = _planned(request, progress)
    prefix = request.prefix
    existed = prefix.exists()
    with _reader(request, plan) as reader:
        try:
            with held(prefix, progress):
                before = read_journal(prefix)
                if before is not None and not request.reinstall and _matches(before, plan, prefix):
                    return _unchanged(request, plan)
                with in_use(reader.store.root):
                    return _installation(request, plan, progress, before, reader).run()
        except BaseException:
            _leave_no_trace(prefix, existed=existed)
            raise


def look_ahead(request: InstallRequest, progress: Progress) -> Preview:
    """Preview; see ``envforge.install.preview``."""
    request, plan = _planned(request, progress)
    before = read_journal(request.prefix)
    if before is not None and not request.reinstall and _matches(before, plan, request.prefix):
        return Preview(
            prefix=request.prefix,
            lockfile=request.lockfile,
            platform=plan.platform,
            unchanged=len(plan.conda) + len(plan.wheels),
            warnings=plan.warnings,
        )
    with _reader(request, plan) as reader:
        return _installation(request, plan, progress, before, reader).preview()


def _planned(request: InstallRequest, progress: Progress) -> tuple[InstallRequest, Plan]:
    """Return the request with an absolute prefix, and its plan; raise ``EnvforgeError`` for a foreign prefix."""
    # packages record the prefix, so it may not contain `..`
    request = replace(request, prefix=Path(os.path.abspath(request.prefix)))  # noqa: PTH100 - keep symbolic links
    plan = make_plan(
        read_any_lock(request.lockfile, request.platform),
        request.platform,
        request.lockfile,
        allow_builds=request.allow_builds,
    )
    for warning in plan.warnings:
        progress.note(f"warning: {warning}")
    _refuse_foreign(request)
    return request, plan


def _reader(request: InstallRequest, plan: Plan) -> Reader:
    """Return a reader for cached files, which starts at once in a new prefix, in parallel with slow imports."""
    reader = Reader(Store((request.cache or default_root()).absolute()))
    if not journal_path(request.prefix).exists():
        reader.begin((*plan.conda, *plan.wheels))
    return reader


def _installation(
    request: InstallRequest, plan: Plan, progress: Progress, before: Journal | None, reader: Reader
) -> Installation:
    machine = None
    if request.machine is not None:
        from envforge.install.needs import asks_driver  # noqa: PLC0415 - not needed if the prefix matches

        machine = reader.beside(partial(request.machine, driver=asks_driver(plan)))
    from envforge.install.steps import Installation  # noqa: PLC0415 - imports rattler

    return Installation(request=request, plan=plan, progress=progress, before=before, reader=reader, machine=machine)


def _leave_no_trace(prefix: Path, *, existed: bool) -> None:
    """Remove the directory of the lock file unless the prefix has a journal or another install holds it."""
    if journal_path(prefix).exists() or (prefix / FOLDER / "holder").exists():
        return
    shutil.rmtree(prefix / FOLDER, ignore_errors=True)
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
    if any(prefix.iterdir()) and not (prefix / FOLDER).is_dir():
        raise EnvforgeError(
            f"`{prefix}` is not empty, and envforge did not create it",
            hint="to install into another directory, pass `--prefix DIR`; to change the packages in this one, pass "
            "`--force`",
            code="prefix-foreign",
        )


def _matches(journal: Journal, plan: Plan, prefix: Path) -> bool:
    """Return whether a complete prefix has the planned packages, judged by names only; ``audit`` reads the files."""
    if journal.step != "verified" or journal.fingerprint != plan.fingerprint:
        return False
    if tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json"))) != plan.records:
        return False
    return frozenset(wheel.name for wheel in journal.wheels) == pip_installed(prefix)


def _unchanged(request: InstallRequest, plan: Plan) -> InstallReport:
    return InstallReport(
        prefix=request.prefix,
        lockfile=request.lockfile,
        platform=plan.platform,
        outcome="unchanged",
        unchanged=len(plan.conda) + len(plan.wheels),
        warnings=plan.warnings,
    )
