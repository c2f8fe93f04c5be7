"""``envforge audit``: turn options into one ``AuditRequest``, and the report into text or JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.envelope import Json, fields_to_json
from envforge.cli import print_result
from envforge.cli.options import (
    DIRECTORY,
    Argument,
    EnvironmentOptions,
    JsonOption,
    Option,
    default_lock,
    platform_here,
    takes,
    tell_change_of,
)
from envforge.cli.progress import counted, megabytes, shown_progress
from envforge.errors import Hint

if TYPE_CHECKING:
    from envforge.prefix.audit import AuditReport, AuditRequest, Repair
    from envforge.prefix.audit_files import AuditFinding
    from envforge.prefix.values import InstallProgress, InstallRequest

_SHOWN = 20
_HEADINGS = {
    "package-missing": "missing packages",
    "package-extra": "packages that are not in the lockfile",
    "package-editable": "packages installed in editable mode",
    "package-version": "packages of another version",
    "package-build": "packages of another build",
    "package-origin": "packages from another source",
    "owned-twice": "libraries installed by both conda and pip",
    "file-changed": "changed files",
    "file-missing": "missing files",
    "file-stray": "files in Python's library directory that belong to no package",
    "openmp": "OpenMP",
}


class AuditOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge audit``."""

    lock: Annotated[Path | None, Argument()] = None
    environment: EnvironmentOptions
    fix: Annotated[bool, Option("Reinstall packages that differ, and move stray files to .envforge/moved.")]
    adopt: Annotated[bool, Option("If an environment that another tool created matches LOCK, manage it with envforge.")]
    full: Annotated[bool, Option("Read every file, even those unchanged since the last audit.")]
    offline: Annotated[bool, Option("With --fix: use only the cache and local mirrors.")]
    allow_builds: Annotated[bool, Option("With --fix: build source distributions, which runs their code.")]
    cache: Annotated[
        Path | None,
        Option(
            "With --fix: directory of downloaded and unpacked packages.",
            type=DIRECTORY,
            envvar="ENVFORGE_CACHE",
            show_envvar=True,
        ),
    ]
    as_json: JsonOption

    def request(self) -> AuditRequest:
        """Return the request to audit the environment."""
        from envforge.prefix.audit import AuditRequest
        from envforge.prefix.venv import is_venv

        prefix = self.environment.meant().prefix
        return AuditRequest(
            prefix=prefix,
            platform=platform_here(),
            lockfile=self.lock or (default_lock() if self.adopt and not is_venv(prefix) else None),
            full=self.full,
            adopt=self.adopt,
        )

    def installation(self, lockfile: Path, platform: str) -> InstallRequest:
        """Return the request to install the environment again."""
        from envforge.base.urls import Mirrors
        from envforge.prefix.values import InstallRequest

        return InstallRequest(
            lockfile=lockfile,
            prefix=self.environment.meant().prefix,
            platform=platform,
            offline=self.offline,
            mirrors=Mirrors.from_environment(os.environ),
            cache=self.cache,
            allow_builds=self.allow_builds,
        )


@click.command("audit")
@takes(AuditOptions)
def audit(options: AuditOptions) -> None:
    """Check that the environment matches its lockfile. Exits with 1 if it doesn't.

    Compares packages (missing, extra, another version, build, or source) and every file (changed, missing, stray) with
    LOCK, by default the lockfile that the environment was created from. To compare two machines, compare the digest:
    the same lockfile produces the same digest.
    """
    from envforge.prefix.audit import audit as run
    from envforge.prefix.locate import check_exists

    if options.adopt and options.fix:
        raise click.UsageError("`--adopt` can't be combined with `--fix`, which only repairs an adopted environment")
    environment = options.environment.meant()
    check_exists(environment)
    if options.adopt:
        _refuse_adopted(environment.prefix)
    tell_change_of(environment.prefix)
    done: Repair | None = None
    with shown_progress(quiet=options.as_json) as progress:
        if options.fix:
            report, done = _fixed(options, progress)
        else:
            report = run(options.request(), progress)
        for note in report.notes:
            progress.note(f"note: {note}")
    is_adopted = options.adopt and not report.drift
    result: dict[str, Json] = {**_to_json(report, done), "adopted": is_adopted}
    lines = [*_to_words(report, done)]
    if is_adopted:
        lines.append(f"envforge manages {report.prefix} from now on; no file of it was changed")
    hints = [_way_out(options, report)] if report.drift and not options.fix else []
    print_result("audit", result, "\n".join(lines), as_json=options.as_json, is_ok=not report.drift, hints=hints)


def _fixed(options: AuditOptions, progress: InstallProgress) -> tuple[AuditReport, Repair | None]:
    """Repair the environment, then audit it again; an incomplete or moved environment is installed first."""
    from envforge.prefix.audit import audit as run
    from envforge.prefix.audit import own_lock, repair
    from envforge.prefix.install import install
    from envforge.prefix.journal import read_journal

    request = options.request()
    journal = read_journal(request.prefix)
    was_moved = journal is not None and journal.was_moved(request.prefix)
    if journal is not None and (was_moved or journal.step != "verified"):
        lockfile = options.lock or own_lock(request.prefix, journal)
        what = "was moved; creating it again" if was_moved else f"is {journal.unfinished}; completing it"
        progress.note(f"{request.prefix} {what}")
        again = replace(options.installation(lockfile, journal.platform), categories=journal.categories)
        # an audit of an incomplete environment would report every package that is still missing
        install(again, progress)
    report = run(request, progress)
    if not report.drift:
        return report, None
    done = repair(report, request, options.installation(report.lockfile, report.platform), progress)
    return done.after, done


def _refuse_adopted(prefix: Path) -> None:
    from envforge.errors import EnvforgeError
    from envforge.prefix.journal import read_journal

    if read_journal(prefix) is not None:
        raise EnvforgeError(
            f"envforge manages `{prefix}` already",
            hint="to check it",
            command=shlex.join(["envforge", "audit", "--prefix", str(prefix)]),
            code="already-adopted",
        )


def _way_out(options: AuditOptions, report: AuditReport) -> Hint:
    """Return how to restore the environment; ``--fix`` changes only those that envforge manages."""
    from envforge.prefix.journal import read_journal

    if read_journal(report.prefix) is not None:
        return Hint("to restore what the lockfile contains", _fix_command(options))
    words = ["envforge", "install", str(report.lockfile), "--prefix", str(report.prefix), "--force"]
    return Hint("to install the lockfile into it, and manage it with envforge", shlex.join(words))


def _fix_command(options: AuditOptions) -> str:
    use = options.environment
    words = ["envforge", "audit", "--fix", *([str(options.lock)] if options.lock else [])]
    words += ["--prefix", str(use.prefix)] if use.prefix else ["--name", use.name] if use.name else []
    return shlex.join(words)


def _to_words(report: AuditReport, done: Repair | None) -> Iterator[str]:
    if done is not None:
        yield from _repaired(done)
    counts = report.counts
    packages, files = counted(counts.packages, "package"), counted(counts.files, "file")
    size = f"{packages}, {files}, {megabytes(counts.bytes)}"
    if report.drift:
        differences = counted(len(report.drift), "difference")
        yield f"{report.prefix} does not match {report.lockfile}: {differences} ({size})"
        yield from _grouped(report.drift)
        yield ""
    else:
        yield f"{report.prefix} matches {report.lockfile} ({size})"
    if report.warnings:
        yield "warnings about the lockfile itself:"
        yield from (f"  {found.text}" for found in report.warnings)
    if counts.unowned_files:
        verb = "belongs" if counts.unowned_files == 1 else "belong"
        yield f"{counted(counts.unowned_files, 'file')} outside Python's library directory {verb} to no package"
    yield f"digest: sha256:{report.digest}"


def _repaired(done: Repair) -> Iterator[str]:
    if done.linked:
        yield f"reinstalled: {', '.join(done.linked)}"
    if done.removed:
        yield f"removed: {', '.join(done.removed)}"
    if done.moved:
        yield f"moved to {done.moved_to}: {', '.join(done.moved)}"


def _grouped(findings: tuple[AuditFinding, ...]) -> Iterator[str]:
    for kind, heading in _HEADINGS.items():
        chosen = [found for found in findings if found.kind == kind]
        if chosen:
            yield f"\n{heading}:"
            yield from (f"  {found.text}" for found in chosen[:_SHOWN])
            if len(chosen) > _SHOWN:
                yield f"  and {len(chosen) - _SHOWN} more; to list all, pass `--json`"


def _to_json(report: AuditReport, done: Repair | None) -> dict[str, Json]:
    repair = None if done is None else fields_to_json(done, "after")
    return {**fields_to_json(report), "digest": f"sha256:{report.digest}", "repair": repair}
