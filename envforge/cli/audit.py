"""``envforge audit``: options to one ``AuditRequest``, the report to words or JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import json_option, platform_here
from envforge.cli.prefix_options import meant, prefix_options
from envforge.cli.progress import megabytes, shown_progress
from envforge.cli.unfinished import tell_change_of

if TYPE_CHECKING:
    from envforge.audit import AuditReport, AuditRequest, Finding, Repair
    from envforge.install import InstallRequest, Progress
    from envforge.report import Json

_SHOWN = 20
_HEADINGS = {
    "package-missing": "packages that are missing",
    "package-extra": "packages that are not in the lock",
    "package-editable": "packages that are linked from a folder of yours",
    "package-version": "packages of another version",
    "package-build": "packages of another build",
    "package-origin": "packages from elsewhere",
    "owned-twice": "libraries of both conda and pip",
    "file-changed": "files that were changed",
    "file-missing": "files that are missing",
    "file-stray": "files among Python's libraries that belong to no package",
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
        from envforge.audit import AuditRequest

        return AuditRequest(
            prefix=self.where(),
            platform=platform_here(),
            lockfile=self.lock,
            full=self.full,
        )

    def installation(self, lockfile: Path, platform: str) -> InstallRequest:
        from envforge.install import InstallRequest
        from envforge.mirrors import Mirrors

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
@click.option("--fix", is_flag=True, help="Install again what differs; move files that belong to no package aside.")
@click.option("--full", is_flag=True, help="Read every file, also those that seem unchanged since the last audit.")
@click.option("--offline", is_flag=True, help="With --fix: use the cache and local mirrors only; ask no server.")
@click.option("--allow-builds", is_flag=True, help="With --fix: build source distributions, which runs their own code.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ENVFORGE_CACHE",
    show_envvar=True,
    help="With --fix: where downloaded and unpacked packages are kept.",
)
@json_option()
def audit(*, as_json: bool, **options: object) -> None:
    """Is the environment what its lock says? Exit code 1 where it is not.

    Compares packages (missing, extra, other version, build or origin) and every file (changed, missing, stray) with
    LOCK, by default the lock that the environment was made from. The digest is one line that two machines can compare:
    the same lock gives the same digest.
    """
    from envforge.audit import audit as run
    from envforge.report import finding, success

    chosen = _Options(**options)  # type: ignore[arg-type] # click gives each field its type
    tell_change_of(chosen.where())
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
            click.echo(f"\nhint: bring back what the lock says: {_command(chosen)} --fix", err=True)
    if report.drift:
        raise click.exceptions.Exit(1)


def _fixed(chosen: _Options, progress: Progress) -> tuple[AuditReport, Repair | None]:
    """Repair, then audit again; an unfinished environment is completed first."""
    from envforge.audit import audit as run
    from envforge.audit import repair
    from envforge.install import install, unfinished
    from envforge.install.journal import read_journal

    request = chosen.request()
    journal = read_journal(request.prefix)
    if journal is not None and unfinished(request.prefix) is not None:
        lockfile = chosen.lock or Path(journal.lockfile)
        progress.note(f"{request.prefix} is {journal.unfinished}; it is completed")
        install(chosen.installation(lockfile, journal.platform), progress)
    report = run(request, progress)
    if not report.drift:
        return report, None
    done = repair(report, request, chosen.installation(report.lockfile, report.platform), progress)
    return done.after, done


def _command(chosen: _Options) -> str:
    words = ["envforge audit", *([str(chosen.lock)] if chosen.lock else [])]
    words += ["--prefix", str(chosen.prefix)] if chosen.prefix else ["--name", chosen.name] if chosen.name else []
    return " ".join(words)


def _to_words(report: AuditReport, done: Repair | None) -> Iterator[str]:
    if done is not None:
        yield from _repaired(done)
    counts = report.counts
    size = f"{counts.packages} packages, {counts.files} files, {megabytes(counts.bytes)}"
    if report.drift:
        yield f"{report.prefix} is not what {report.lockfile} says: {_differences(report)} ({size})"
        yield from _grouped(report.drift)
        yield ""
    else:
        yield f"{report.prefix} is what {report.lockfile} says ({size})"
    if report.warnings:
        yield "the lock brings, which is worth a look:"
        yield from (f"  {found.text}" for found in report.warnings)
    if counts.unowned_files:
        count = counts.unowned_files
        words = (
            "1 file outside Python's libraries belongs"
            if count == 1
            else f"{count} files outside Python's libraries belong"
        )
        yield f"beside that, {words} to no package"
    yield f"digest: sha256:{report.digest}"


def _repaired(done: Repair) -> Iterator[str]:
    if done.linked:
        yield f"installed again: {', '.join(done.linked)}"
    if done.removed:
        yield f"removed: {', '.join(done.removed)}"
    if done.moved:
        yield f"moved to {done.moved_to}: {', '.join(done.moved)}"


def _differences(report: AuditReport) -> str:
    return "1 difference" if len(report.drift) == 1 else f"{len(report.drift)} differences"


def _grouped(findings: tuple[Finding, ...]) -> Iterator[str]:
    for kind, heading in _HEADINGS.items():
        chosen = [found for found in findings if found.kind == kind]
        if chosen:
            yield f"\n{heading}:"
            yield from (f"  {found.text}" for found in chosen[:_SHOWN])
            if len(chosen) > _SHOWN:
                yield f"  and {len(chosen) - _SHOWN} more; all of them: envforge audit --json"


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
