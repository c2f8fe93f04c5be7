"""Run one audit: read the prefix, compare it with its lockfile, and cache the hashes."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

from envforge.errors import EnvforgeError, Hint
from envforge.lock.plan import Plan, make_plan, read_any_lock, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.audit_files import Files, digest_of, hash_files, read_inventory
from envforge.prefix.audit_packages import compare_conda, compare_wheels, openmp_runtimes, owned_twice, split_by_lock
from envforge.prefix.audit_report import AuditReport, AuditRequest, Counts, Finding
from envforge.prefix.installed import read_conda, read_distributions, site_packages_of
from envforge.prefix.journal import Journal, read_journal
from envforge.prefix.locate import Meant, check_exists
from envforge.prefix.values import Progress, Silent

_PROGRESS = Silent()


def audit(request: AuditRequest, progress: Progress = _PROGRESS) -> AuditReport:
    """Compare a prefix with its lockfile; raise ``EnvforgeError`` if the prefix doesn't exist or is incomplete."""
    request = replace(request, prefix=Path(os.path.abspath(request.prefix)))  # noqa: PTH100 - keep symbolic links
    journal = _journal(request.prefix)
    lockfile = request.lockfile or _own_lock(request.prefix, journal)
    platform = journal.platform if journal else request.platform
    plan = make_plan(read_any_lock(lockfile, platform), platform, lockfile, allow_builds=True)
    files = read_files(request.prefix)
    hashes = hash_files(request.prefix, files.to_hash, files.inventory, progress, full=request.full)
    locked = frozenset(wheel_of(artifact).name for artifact in plan.wheels)
    drift, warnings = split_by_lock(owned_twice(files), locked)
    return AuditReport(
        prefix=request.prefix,
        lockfile=lockfile,
        platform=platform,
        drift=(*_packages(plan, files, journal), *drift, *files.findings(hashes.sha256)),
        warnings=(*warnings, *openmp_runtimes(files, hashes.sha256)),
        digest=digest_of(files.digest_lines(hashes.sha256)),
        counts=Counts(
            packages=len(files.conda) + len(files.wheels),
            files=len(files.to_hash),
            bytes=sum(files.inventory[path].size for path in files.to_hash),
            read_files=hashes.read_files,
            read_bytes=hashes.read_bytes,
            unowned_files=files.unowned,
        ),
        notes=hashes.notes,
    )


def read_files(prefix: Path) -> Files:
    """Read the files of a prefix and the packages that own them."""
    conda = read_conda(prefix)
    site_packages = site_packages_of(conda, prefix)
    return Files(
        prefix=prefix,
        inventory=read_inventory(prefix),
        conda=conda,
        wheels=read_distributions(prefix, site_packages, conda) if site_packages else (),
        library=site_packages.rpartition("/")[0] if site_packages else None,
    )


def _packages(plan: Plan, files: Files, journal: Journal | None) -> tuple[Finding, ...]:
    kept = journal.wheels if journal else ()
    return (*compare_conda(plan, files.conda), *compare_wheels(plan, files.wheels, kept))


def _journal(prefix: Path) -> Journal | None:
    """Return the journal of a prefix; raise ``EnvforgeError`` if the prefix doesn't exist or is incomplete."""
    check_exists(Meant(prefix=prefix, option=f"--prefix {shlex.quote(str(prefix))}"))
    journal = read_journal(prefix)
    if journal is not None and journal.step != "verified":
        raise EnvforgeError(
            f"the environment in `{prefix}` is incomplete: an earlier command was interrupted "
            f"(last step: `{journal.step}`)",
            hint=(
                Hint("to complete it", shlex.join(["envforge", "install", journal.lockfile, "--prefix", str(prefix)])),
                Hint("to complete and audit it", shlex.join(["envforge", "audit", "--fix", "--prefix", str(prefix)])),
            ),
            code="prefix-unfinished",
        )
    return journal


def _own_lock(prefix: Path, journal: Journal | None) -> Path:
    """Return the lockfile that a prefix was created from, or its copy in the prefix if it no longer exists."""
    if journal is None:
        raise EnvforgeError(
            f"envforge did not create `{prefix}`, so its lockfile is unknown",
            hint="to compare it with a lockfile",
            command=shlex.join(["envforge", "audit", "LOCK", "--prefix", str(prefix)]),
            code="no-lock-known",
        )
    stated = Path(journal.lockfile)
    return stated if stated.exists() else prefix / ENVFORGE_DIRECTORY / "conda-lock.yml"
