"""``envforge audit``: turn options into one ``AuditRequest``, and the report into text or JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import json_option, meant, platform_here, prefix_options, tell_change_of
from envforge.cli.progress import counted, megabytes, shown_progress

if TYPE_CHECKING:
    from envforge.base.envelope import Json
    from envforge.prefix.values import AuditReport, AuditRequest, Finding, InstallRequest, Progress, Repair

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    lock: Path | None
    prefix: Path | None
    name: str | None
    fix: bool
    full: bool
    offline: bool
    allow_builds: bool
    cache: Path | None

    def where(self) -> Path:
        return meant(self.prefix, self.name).prefix

    def request(self) -> AuditRequest:
        from envforge.prefix.values import AuditRequest

        return AuditRequest(
            prefix=self.where(),
            platform=platform_here(),
            lockfile=self.lock,
            full=self.full,
        )

    def installation(self, lockfile: Path, platform: str) -> InstallRequest:
        from envforge.base.net import Mirrors
        from envforge.prefix.values import InstallRequest

        return InstallRequest(
            lockfile=lockfile,
            prefix=self.where(),
            platform=platform,
            offline=self.offline,
            mirrors=Mirrors.from_environment(os.environ),
            cache=self.cache,
            allow_builds=self.allow_builds,
        )


@click.command("audit")
@click.argument("lock", type=click.Path(path_type=Path, dir_okay=False), required=False)
@prefix_options
@click.option("--fix", is_flag=True, help="Reinstall packages that differ, and move stray files to .envforge/moved.")
@click.option("--full", is_flag=True, help="Read every file, even those unchanged since the last audit.")
@click.option("--offline", is_flag=True, help="With --fix: use only the cache and local mirrors.")
@click.option("--allow-builds", is_flag=True, help="With --fix: build source distributions, which runs their code.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ENVFORGE_CACHE",
    show_envvar=True,
    help="With --fix: directory of downloaded and unpacked packages.",
)
@json_option()
def audit(*, as_json: bool, **options: object) -> None:
    """Check that the environment matches its lockfile. Exits with 1 if it doesn't.

    Compares packages (missing, extra, another version, build, or source) and every file (changed, missing, stray) with
    LOCK, by default the lockfile that the environment was created from. To compare two machines, compare the digest:
    the same lockfile produces the same digest.
    """
    from envforge.base.envelope import finding, success
    from envforge.errors import Hint
    from envforge.prefix.audit import audit as run
    from envforge.prefix.locate import check_exists

    chosen = _Options(**options)  # type: ignore[arg-type] # click gives each field its type
    environment = meant(chosen.prefix, chosen.name)
    check_exists(environment)
    tell_change_of(environment.prefix)
    done: Repair | None = None
    with shown_progress(quiet=as_json) as progress:
        if chosen.fix:
            report, done = _fixed(chosen, progress)
        else:
            report = run(chosen.request(), progress)
        for note in report.notes:
            progress.note(f"note: {note}")
    if as_json:
        result = _to_json(report, done)
        click.echo(finding("audit", result) if report.drift else success("audit", result))
    else:
        click.echo("\n".join(_to_words(report, done)))
        if report.drift and not chosen.fix:
            hint = Hint("to restore what the lockfile contains", _fix_command(chosen))
            click.echo(f"\nhint: {hint}", err=True)
    if report.drift:
        raise click.exceptions.Exit(1)


def _fixed(chosen: _Options, progress: Progress) -> tuple[AuditReport, Repair | None]:
    """Repair the environment, then audit it again; an incomplete or moved environment is installed first."""
    from envforge.prefix.audit import audit as run
    from envforge.prefix.audit import own_lock, repair
    from envforge.prefix.install import install
    from envforge.prefix.journal import read_journal

    request = chosen.request()
    journal = read_journal(request.prefix)
    was_moved = journal is not None and journal.was_moved(request.prefix)
    if journal is not None and (was_moved or journal.step != "verified"):
        lockfile = chosen.lock or own_lock(request.prefix, journal)
        what = "was moved; creating it again" if was_moved else f"is {journal.unfinished}; completing it"
        progress.note(f"{request.prefix} {what}")
        install(chosen.installation(lockfile, journal.platform), progress)
    report = run(request, progress)
    if not report.drift:
        return report, None
    done = repair(report, request, chosen.installation(report.lockfile, report.platform), progress)
    return done.after, done


def _fix_command(chosen: _Options) -> str:
    words = ["envforge", "audit", "--fix", *([str(chosen.lock)] if chosen.lock else [])]
    words += ["--prefix", str(chosen.prefix)] if chosen.prefix else ["--name", chosen.name] if chosen.name else []
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


def _grouped(findings: tuple[Finding, ...]) -> Iterator[str]:
    for kind, heading in _HEADINGS.items():
        chosen = [found for found in findings if found.kind == kind]
        if chosen:
            yield f"\n{heading}:"
            yield from (f"  {found.text}" for found in chosen[:_SHOWN])
            if len(chosen) > _SHOWN:
                yield f"  and {len(chosen) - _SHOWN} more; to list all, pass `--json`"


def _to_json(report: AuditReport, done: Repair | None) -> Json:
    from dataclasses import asdict

    return {
        "prefix": str(report.prefix),
        "lockfile": str(report.lockfile),
        "platform": report.platform,
        "digest": f"sha256:{report.digest}",
        "drift": [asdict(found) for found in report.drift],
        "warnings": [asdict(found) for found in report.warnings],
        "counts": asdict(report.counts),
        "notes": list(report.notes),
        "repair": None
        if done is None
        else {
            "linked": list(done.linked),
            "removed": list(done.removed),
            "moved": list(done.moved),
            "moved_to": str(done.moved_to),
        },
    }
