"""Lock an environment, or change it and lock it, in one transaction.

A lockfile that is up to date is left unchanged; otherwise locked versions are kept if possible.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from envforge.base.files import exclusive_lock, workshop, write_atomic
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.check import check_inputs
from envforge.lock.edit import Edit
from envforge.lock.inputs import Inputs, read_inputs, read_text
from envforge.lock.lockfile import INPUT_SHA256
from envforge.lock.previous_lock import Keeping, Old, list_changes, read_old, refuse_unknown
from envforge.lock.request import Cutoff, LockReport, LockRequest, Progress
from envforge.lock.run import Run, summary
from envforge.lock.transaction import complete_transaction, refuse_unfinished, replace_together


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A new lockfile that is not written yet; ``text`` is its contents."""

    report: LockReport
    text: str


def lock(request: LockRequest, progress: Progress = repr) -> LockReport:
    """Create or update a lockfile; on errors, raise ``EnvforgeError`` and leave the old one unchanged."""
    with exclusive_lock(request.lockfile):
        complete_transaction(request.environment)
        old = read_old(request.lockfile)
        made = make_lock(request, progress)
        if old is None or made.text != old.text:
            write_atomic(request.lockfile, made.text)
    return made.report


def make_lock(request: LockRequest, progress: Progress = repr) -> Made:
    """Return the lockfile that ``request`` specifies without writing it; the caller must hold ``alone``."""
    started = time.monotonic()
    inputs = read_inputs(
        request.environment,
        request.virtual_packages,
        request.platforms,
        request.environment_text,
        others=request.others,
        categories=request.categories,
    )
    if not request.lockfile.absolute().parent.is_dir():
        raise RequestError(
            f"directory `{request.lockfile.parent}` does not exist",
            hint="to create it",
            command=shlex.join(["mkdir", "-p", str(request.lockfile.parent)]),
            code="no-folder",
        )
    old = read_old(request.lockfile)
    refuse_unknown(old.lock if old else None, request)
    cutoff = request.exclude_newer or (old.cutoff if old else Cutoff(at=None))
    _refuse_other_solver(request, cutoff)
    if old is not None and _still_fits(request, inputs, old, cutoff):
        return _kept(request, inputs, old, time.monotonic() - started)
    keeping = Keeping(old=None if request.upgrade else old, renew=request.upgrade_packages, cutoff=cutoff)
    known = {package.url: package.sha256 or "" for package in old.lock.packages} if old else {}
    with workshop() as folder:
        report, text = Run(request, inputs, keeping, folder, progress, known).run(started, old)
    return Made(report=report, text=text)


def _refuse_other_solver(request: LockRequest, cutoff: Cutoff) -> None:
    if request.conda_exe is None or (cutoff.at is None and not request.upgrade_packages):
        return
    is_dated = cutoff.at is not None
    what = f"`--exclude-newer {cutoff}`" if is_dated else "`--upgrade-package`"
    other = (
        "include newer packages, pass `--exclude-newer none`" if is_dated else "upgrade all packages, pass `--upgrade`"
    )
    raise RequestError(
        f"{what} requires the embedded solver, but `--conda-exe {request.conda_exe}` was provided",
        hint=(
            Hint("to use the embedded solver, omit `--conda-exe` and unset `ENVFORGE_CONDA_EXE`"),
            Hint(f"to {other}"),
        ),
        code="other-solver",
    )


def _still_fits(request: LockRequest, inputs: Inputs, old: Old, cutoff: Cutoff) -> bool:
    if request.upgrade or request.upgrade_packages or request.verify_hashes or cutoff != old.cutoff:
        return False
    # checksums may be missing in lockfiles made by conda-lock, so those are locked again
    return INPUT_SHA256 in dict(old.lock.custom_metadata) and not check_inputs(inputs, old.lock)


def _kept(request: LockRequest, inputs: Inputs, old: Old, seconds: float) -> Made:
    """Return the old lockfile, with the new digest of the input if its comments or order changed."""
    recorded = dict(old.lock.custom_metadata)[INPUT_SHA256]
    report = LockReport(
        lockfile=request.lockfile,
        lock=old.lock,
        platforms=tuple(summary(old.lock, platform, {}) for platform in inputs.platforms),
        virtual_packages=(),
        virtual_packages_source="",
        hashed=(),
        warnings=(),
        seconds=seconds,
        is_unchanged=True,
        exclude_newer=old.cutoff,
        changes=list_changes(old.lock, old.lock),
    )
    return Made(report=report, text=old.text.replace(recorded, inputs.sha256))


def change(
    request: LockRequest, edit: Callable[[str], Edit], progress: Progress = repr, *, dry_run: bool = False
) -> tuple[Edit, LockReport]:
    """Edit the environment of ``request`` and lock it; write neither file on errors or with ``dry_run``.

    With ``dry_run``, raise ``EnvforgeError`` if an earlier change is incomplete, because completing it would write.
    """
    environment = request.environment
    with exclusive_lock(request.lockfile):
        if dry_run:
            refuse_unfinished(environment)
        else:
            complete_transaction(environment)
        before = read_text(environment)
        edited = edit(before)
        try:
            made = make_lock(replace(request, environment_text=edited.text.replace("\r\n", "\n")), progress)
        except EnvforgeError as error:
            raise type(error)(
                f"{error.message}\n`{environment}` and `{request.lockfile}` are unchanged",
                hint=error.hints,
                code=error.code,
            ) from error
        # solving takes long enough for an editor to save the file in between
        if read_text(environment) != before:
            raise EnvforgeError(
                f"`{environment}` was edited while this command was running; nothing was written",
                hint="run this command again",
                code="edited-since",
            )
        files = {environment: edited.text.encode(), request.lockfile: made.text.encode()}
        changed = {p: data for p, data in files.items() if not p.exists() or p.read_bytes() != data}
        if changed and not dry_run:
            replace_together(environment, changed)
    return edited, made.report
