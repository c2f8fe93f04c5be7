"""``envforge lock``: options to one ``LockRequest``, the report to words or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.lock_progress import show_progress
from envforge.cli.options import chosen_mirrors, json_option, mirror_option
from envforge.cli.unfinished import tell_environment

if TYPE_CHECKING:
    from envforge.cuda import WheelTag
    from envforge.lock import LockReport, LockRequest, PlatformSummary
    from envforge.lock.agreement import Difference
    from envforge.lock.cutoff import Cutoff
    from envforge.report import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    file: Path
    lockfile: Path | None
    platforms: tuple[str, ...]
    conda_exe: Path | None
    mirrors: tuple[str, ...]
    verify_hashes: bool
    upgrade: bool
    upgrade_packages: tuple[str, ...]
    exclude_newer: str | None
    variants: tuple[str, ...]

    def request(self) -> LockRequest:
        from envforge.lock import LockRequest

        return LockRequest(
            environment=self.file,
            lockfile=self.lockfile or self.file.with_name("conda-lock.yml"),
            platforms=self.platforms,
            conda_exe=self.conda_exe,
            mirrors=chosen_mirrors(self.mirrors),
            verify_hashes=self.verify_hashes,
            upgrade=self.upgrade,
            upgrade_packages=self.upgrade_packages,
            exclude_newer=self.cutoff(),
        )

    def command(self) -> str:
        """The command that makes what a check found missing."""
        date = [f"--exclude-newer {self.exclude_newer}"] if self.exclude_newer else []
        return " ".join(["envforge lock", *(f"--variant {name}" for name in self.variants), *date])

    def tag(self, name: str) -> WheelTag:
        """The tag of a variant; each has its own place, so that ``--lockfile`` says nothing."""
        from envforge.variants import parse_variant

        if self.lockfile is not None:
            raise click.UsageError("--variant and --lockfile both say where the lock goes; give one of them")
        return parse_variant(name)

    def cutoff(self) -> Cutoff | None:
        """The date of ``--exclude-newer``; a span counts from now."""
        import datetime as dt

        from envforge.lock.cutoff import parse_cutoff

        return parse_cutoff(self.exclude_newer, dt.datetime.now(dt.timezone.utc)) if self.exclude_newer else None


@click.command("lock")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("environment.yml"),
    show_default=True,
    help="What to lock; virtual-packages.yml beside it is read too.",
)
@click.option(
    "--lockfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the lock goes.  [default: conda-lock.yml beside FILE]",
)
@click.option(
    "-p", "--platform", "platforms", multiple=True, help="Lock for this platform (repeatable) instead of those in FILE."
)
@click.option("--check", "is_check", is_flag=True, help="Only say whether the lock still fits FILE: exit 0 or 1.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="TAG",
    help="Lock the project for this wheel tag (cpu, cu118 …; repeatable) into lockfiles/TAG/ instead.",
)
@click.option("--upgrade", is_flag=True, help="Choose every version anew, the newest that fits.")
@click.option(
    "--upgrade-package",
    "upgrade_packages",
    multiple=True,
    metavar="NAME",
    help="Choose the version of this package anew (repeatable), and keep the others where they can stay.",
)
@click.option(
    "--exclude-newer",
    metavar="DATE|SPAN",
    help="Leave out what is newer than a date (2026-01-31), a time or a span (12h, 7d, 2w). The lock records it, and "
    "it stays in force until another is given, or `none`.",
)
@click.option(
    "--conda-exe",
    type=click.Path(path_type=Path),
    envvar="ENVFORGE_CONDA_EXE",
    show_envvar=True,
    help="Solve with this conda, mamba or micromamba instead of the embedded solver.",
)
@mirror_option()
@click.option(
    "--verify-hashes", is_flag=True, help="Fetch every wheel and compare its sha256 with what its index states."
)
@json_option()
def lock(*, is_check: bool, as_json: bool, **options: object) -> None:
    """Lock environment.yml into conda-lock.yml, or check that they agree.

    Every package of every platform gets an address and a checked sha256. The old lock stays until the new one is whole.

    A lock that still fits is left alone. Where environment.yml has changed, what is locked stays as far as it can.
    """
    chosen = _Options(**options)  # type: ignore[arg-type] # click gives each field its type
    tell_environment()
    if is_check and (chosen.upgrade or chosen.upgrade_packages):
        raise click.UsageError("--check changes nothing, and --upgrade chooses versions; give one of them")
    if is_check:
        _check(chosen, as_json=as_json)
    else:
        _lock(chosen, as_json=as_json)


def _lock(options: _Options, *, as_json: bool) -> None:
    from envforge.lock.locking import lock as make_lock
    from envforge.report import success

    if options.variants:
        _lock_variants(options, as_json=as_json)
        return
    request = options.request()
    with show_progress() as show:
        report = make_lock(request, show)
    warnings = (*report.warnings, *stale_warnings(request.environment))
    if as_json:
        click.echo(success("lock", {**report_json(report), "warnings": list(warnings)}))
    else:
        click.echo(report_words(report))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _lock_variants(options: _Options, *, as_json: bool) -> None:
    from envforge.lock.variants import lock_variant
    from envforge.report import success

    rows: list[Json] = []
    for name in options.variants:
        with show_progress() as show:
            made = lock_variant(options.request(), options.tag(name), show)
        rows.append({"variant": made.name, "needs": list(made.needs), **report_json(made.report)})
        if not as_json:
            lines = [f"variant {made.name}: {report_words(made.report)}", *(f"needs: {one}" for one in made.needs)]
            click.echo("\n".join(lines))
        for warning in made.report.warnings:
            click.echo(f"warning: variant {made.name}: {warning}", err=True)
    if as_json:
        click.echo(success("lock", {"variants": rows}))


def stale_warnings(environment: Path) -> tuple[str, ...]:
    """A line where variants are behind the project's environment.yml."""
    if not (environment.parent / "lockfiles").is_dir():
        return ()
    from envforge.lock.variants import stale_variants

    names = stale_variants(environment)
    command = " ".join(f"--variant {name}" for name in names)
    return (f"{', '.join(names)}: made from another {environment.name}; envforge lock {command}",) if names else ()


def _check(options: _Options, *, as_json: bool) -> None:
    from envforge.lock.agreement import check
    from envforge.report import finding, success

    request = options.request()
    if options.variants:
        from envforge.lock.variants import check_variant

        what = f"lockfiles/ ({', '.join(options.variants)})"
        differences = tuple(d for name in options.variants for d in check_variant(request, options.tag(name)))
    else:
        what = str(request.lockfile)
        _finish(request)
        differences = check(
            request.environment, request.lockfile, platforms=request.platforms, exclude_newer=request.exclude_newer
        )
    if as_json:
        result: Json = {"differences": [_difference(difference) for difference in differences]}
        click.echo(finding("lock", result) if differences else success("lock", result))
    elif differences:
        click.echo(f"{what} does not fit {request.environment}:")
        click.echo("\n".join(f"- {difference}" for difference in differences))
        click.echo("\nhint: " + options.command(), err=True)
    else:
        click.echo(f"{what} fits {request.environment}")
    if differences:
        raise click.exceptions.Exit(1)


def _finish(request: LockRequest) -> None:
    """Complete an `add` or `remove` that a crash has left half done: nothing else may be compared."""
    from envforge.lock.together import finish, is_unfinished
    from envforge.lock.workplace import alone

    if is_unfinished(request.environment):
        with alone(request.lockfile):
            finish(request.environment)


def _difference(difference: Difference) -> Json:
    return {
        "code": difference.code,
        "platform": difference.platform,
        "wanted": difference.wanted,
        "found": difference.found,
    }


def report_json(report: LockReport) -> dict[str, Json]:
    """A finished lock for machines."""
    return {
        "lockfile": str(report.lockfile),
        "platforms": [
            {
                "platform": one.platform,
                "conda": one.conda,
                "pip": one.pip,
                "torch": one.torch,
                "bytes": one.bytes,
                "packages_of_known_size": one.sized,
            }
            for one in report.platforms
        ],
        "virtual_packages": list(report.virtual_packages),
        "virtual_packages_from": report.virtual_packages_source,
        "warnings": list(report.warnings),
        "hashed": list(report.hashed),
        "unchanged": report.is_unchanged,
        "changes": list(report.changes),
        "exclude_newer": None if report.exclude_newer.at is None else str(report.exclude_newer),
        "seconds": round(report.seconds, 2),
    }


def report_words(report: LockReport) -> str:
    """A finished lock for people."""
    if report.is_unchanged:
        return "\n".join([f"{report.lockfile} fits its input, and stays as it is", *_date(report)])
    lines = [f"{report.lockfile} is written, every package with its sha256 ({report.seconds:.1f} s)"]
    for one in report.platforms:
        torch = f"torch {one.torch}" if one.torch else "no torch"
        lines.append(f"  {one.platform}: {torch}; {one.conda} conda packages, {one.pip} wheels; {_size(one)}")
    if report.virtual_packages:
        lines.append(f"solved against (from {report.virtual_packages_source}):")
        lines += [f"  {words}" for words in report.virtual_packages]
    lines += _date(report)
    if report.changes:
        lines.append("changed:")
        lines += [f"  {line}" for line in report.changes]
    if report.hashed:
        lines.append("fetched once, because their index states no sha256 or you asked to verify:")
        lines += [f"  {url}" for url in report.hashed]
    return "\n".join(lines)


def _date(report: LockReport) -> list[str]:
    return [] if report.exclude_newer.at is None else [f"nothing in it is newer than {report.exclude_newer}"]


def _size(one: PlatformSummary) -> str:
    unknown = one.conda + one.pip - one.sized
    known = f"{one.bytes / 1e9:.1f} GB" if one.bytes >= 1e8 else f"{one.bytes / 1e6:.1f} MB"
    return f"{known} to fetch" + (f" and {unknown} files whose size no index states" if unknown else "")
