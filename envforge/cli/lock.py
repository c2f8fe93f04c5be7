"""``envforge lock``: turn options into one ``LockRequest``, and the report into text or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.envelope import Json, fields_to_json
from envforge.cli import print_result
from envforge.cli.options import (
    CondaExeOption,
    FileOptions,
    JsonOption,
    MirrorsOption,
    Option,
    takes,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import counted, show_progress
from envforge.errors import EnvforgeError, Hint

if TYPE_CHECKING:
    from envforge.base.terms import WheelTag
    from envforge.lock.compile import PylockReport
    from envforge.lock.consistency import Difference
    from envforge.lock.request import Cutoff, LockProgress, LockReport, LockRequest, PlatformSummary

_SHOWN = 5


class LockOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge lock``."""

    sources: FileOptions
    platforms: Annotated[
        tuple[str, ...],
        Option("Lock for this platform instead of those in FILE. May be provided more than once.", "-p", "--platform"),
    ]
    categories: Annotated[
        tuple[str, ...],
        Option(
            "Lock only the environment files of this category. May be provided more than once.  [default: all]",
            "--category",
            metavar="NAME",
        ),
    ]
    is_check: Annotated[
        bool,
        Option(
            "Check that the lockfile is up to date with FILE, without writing it. Exits with 1 if it isn't.", "--check"
        ),
    ]
    variants: Annotated[
        tuple[str, ...],
        Option(
            "Lock a variant for this wheel tag (cpu, cu118, …) in lockfiles/TAG/. May be provided more than once.",
            "--variant",
            metavar="TAG",
        ),
    ]
    pylock: Annotated[
        bool,
        Option(
            "Also write pylock.toml (PEP 751) next to the lockfile, with all Python packages, for uv and pip without "
            "conda."
        ),
    ]
    upgrade: Annotated[bool, Option("Upgrade all packages to the newest versions allowed.")]
    upgrade_packages: Annotated[
        tuple[str, ...],
        Option(
            "Upgrade this package, and keep the other versions if possible. May be provided more than once.",
            "--upgrade-package",
            metavar="NAME",
        ),
    ]
    exclude_newer: Annotated[
        str | None,
        Option(
            "Ignore packages newer than a date (2026-01-31), a time, or a time span (12h, 7d, 2w). The lockfile "
            "records the date for later runs; `none` removes it.",
            metavar="DATE|SPAN",
        ),
    ]
    conda_exe: CondaExeOption
    mirrors: MirrorsOption
    verify_hashes: Annotated[bool, Option("Download every wheel and verify the SHA-256 that its index states.")]
    as_json: JsonOption

    def request(self) -> LockRequest:
        """Return the request to lock the environment files."""
        return replace(
            self.sources.request(self.mirrors),
            platforms=self.platforms,
            categories=self.categories,
            conda_exe=self.conda_exe,
            verify_hashes=self.verify_hashes,
            upgrade=self.upgrade,
            upgrade_packages=self.upgrade_packages,
            exclude_newer=self.cutoff(),
        )

    def command(self, request: LockRequest) -> str:
        """Return the command that updates what a check found to be out of date."""
        words = [word for name in self.variants for word in ("--variant", name)]
        words += [word for name in self.platforms for word in ("--platform", name)]
        words += ["--pylock"] if self.pylock else []
        return request.command("lock", *words, *(["--exclude-newer", self.exclude_newer] if self.exclude_newer else []))

    def tag(self, name: str) -> WheelTag:
        """Return the tag of a variant, which excludes ``--lockfile`` because each variant has its own path."""
        from envforge.lock.variants import parse_variant

        if self.sources.lockfile is not None:
            raise click.UsageError("`--variant` can't be combined with `--lockfile`")
        return parse_variant(name)

    def cutoff(self) -> Cutoff | None:
        """Return the date of ``--exclude-newer``; a duration is relative to now."""
        import datetime as dt

        from envforge.lock.request import parse_cutoff

        return parse_cutoff(self.exclude_newer, dt.datetime.now(dt.timezone.utc)) if self.exclude_newer else None


@click.command("lock")
@takes(LockOptions)
def lock(options: LockOptions) -> None:
    """Lock environment.yml into conda-lock.yml, or check that the lockfile is up to date.

    The lockfile has a URL and a verified SHA-256 for every package of every platform. If the lock fails, the existing
    lockfile is unchanged.

    A lockfile that is up to date is left alone. Otherwise, locked versions are kept if the new requirements allow.
    """
    warn_of_incomplete_environment()
    # a check compares with what is locked, and an upgrade asks for something else
    if options.is_check and (options.upgrade or options.upgrade_packages):
        raise click.UsageError("`--check` can't be combined with `--upgrade` or `--upgrade-package`")
    if options.is_check:
        _check(options)
    else:
        _lock(options)


def _lock(options: LockOptions) -> None:
    from envforge.lock.locking import lock as make_lock

    if options.variants:
        _lock_variants(options)
        return
    request = options.request()
    with show_progress() as show:
        report = make_lock(request, show)
        pylock = _make_pylock(request, show) if options.pylock else None
    warnings = (*report.warnings, *stale_warnings(request.environment))
    if pylock is None:
        warnings = (*warnings, *stale_pylock(request))
    result = {**report_json(report), "warnings": warnings, **pylock_json(pylock)}
    text = "\n".join([report_words(report), *([pylock_words(pylock)] if pylock else [])])
    print_result("lock", result, text, as_json=options.as_json)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _lock_variants(options: LockOptions) -> None:
    from envforge.base.envelope import success
    from envforge.lock.compile import lock_pylock
    from envforge.lock.variants import lock_variant, variant_request

    rows: list[Json] = []
    for name in options.variants:
        with show_progress() as show:
            made = lock_variant(options.request(), options.tag(name), show)
            of_variant = variant_request(options.request(), options.tag(name))
            pylock = lock_pylock(of_variant, show) if options.pylock else None
        warnings = (*made.report.warnings, *(() if pylock else stale_pylock(of_variant)))
        row: dict[str, Json] = {"variant": made.name, "needs": list(made.needs), **report_json(made.report)}
        rows.append({**row, "warnings": list(warnings), **pylock_json(pylock)})
        if not options.as_json:
            lines = [f"variant {made.name}: {report_words(made.report)}", *(f"requires: {one}" for one in made.needs)]
            lines += [] if pylock is None else [pylock_words(pylock)]
            click.echo("\n".join(lines))
        for warning in warnings:
            click.echo(f"warning: variant {made.name}: {warning}", err=True)
    if options.as_json:
        click.echo(success("lock", {"variants": rows}))


def _make_pylock(request: LockRequest, show: LockProgress) -> PylockReport:
    from envforge.lock.compile import lock_pylock

    return lock_pylock(request, show)


def stale_pylock(request: LockRequest) -> tuple[str, ...]:
    """Return a line if there is a pylock.toml that is not up to date with the lockfile of a request."""
    from envforge.lock.pylock import has_own_pylock, pylock_of

    if not has_own_pylock(request.lockfile):
        return ()
    from envforge.lock.compile import is_pylock_current

    if is_pylock_current(request):
        return ()
    variant = ("--variant", request.lockfile.parent.name) if request.source else ()
    update = request.command("lock", *variant, "--pylock")
    return (f"{pylock_of(request.lockfile)} is not up to date with {request.lockfile}; to update it, run `{update}`",)


def stale_warnings(environment: Path) -> tuple[str, ...]:
    """Return a line if variants are not up to date with the project's environment.yml."""
    if not (environment.parent / "lockfiles").is_dir():
        return ()
    from envforge.lock.variants import stale_variants

    names = stale_variants(environment)
    if not names:
        return ()
    from envforge.lock.project import LOCK_FILE, VARIANTS_DIRECTORY, project_command
    from envforge.lock.pylock import has_own_pylock

    words = [word for name in names for word in ("--variant", name)]
    folder = environment.with_name(VARIANTS_DIRECTORY)
    words += ["--pylock"] if any(has_own_pylock(folder / name / LOCK_FILE) for name in names) else []
    command = project_command("lock", environment, None, words)
    is_one = len(names) == 1
    subject = f"variant {names[0]} is" if is_one else f"variants {', '.join(names)} are"
    return (f"{subject} not up to date with {environment}; to update {'it' if is_one else 'them'}, run `{command}`",)


def _check(options: LockOptions) -> None:
    from envforge.base.redact import change_texts
    from envforge.base.urls import hide_secrets
    from envforge.lock.pylock import has_own_pylock, pylock_of

    request = options.request()
    what, differences = _variant_differences(options) if options.variants else _differences(options, request)
    if not options.variants and (options.pylock or has_own_pylock(request.lockfile)):
        from envforge.lock.compile import check_pylock

        options = replace(options, pylock=True)
        what = what if differences else f"{what} with {pylock_of(request.lockfile).name}"
        differences = differences or check_pylock(request)
    elif any(one.code.startswith("pylock-") for one in differences):
        options = replace(options, pylock=True)  # the hint is the command that writes it again
    differences = change_texts(differences, hide_secrets)  # variables, categories, and names can contain a URL
    verdict = "is not up to date with" if differences else "is up to date with"
    print_result(
        "lock",
        {"differences": differences},
        "\n- ".join([f"{what} {verdict} {request.environment}{':' if differences else ''}", *map(str, differences)]),
        as_json=options.as_json,
        is_ok=not differences,
        hints=[*_all_files(request, differences), Hint("to update it", options.command(request))],
    )


def _all_files(request: LockRequest, differences: Sequence[Difference]) -> Iterator[Hint]:
    """Yield how to check a lockfile of several environment files, if only some of them were provided."""
    from envforge.lock.lockfile import recorded_sources

    if any(one.code == "sources" for one in differences) and len(files := recorded_sources(request.lockfile)) > 1:
        every = replace(request, environment=files[0], others=files[1:])
        yield Hint("to check it with all of its files", every.command("lock", "--check"))


def _differences(options: LockOptions, request: LockRequest) -> tuple[str, tuple[Difference, ...]]:
    """Return the lockfile, and its differences from the environment files."""
    from envforge.lock.check import check_lock

    _finish(request)
    if request.environment.exists() and not request.lockfile.exists():
        raise EnvforgeError(
            f"`{request.lockfile}` does not exist",
            hint="to create it",
            command=options.command(request),
            code="lockfile-unreadable",
        )
    return str(request.lockfile), check_lock(
        request.environment,
        request.lockfile,
        platforms=request.platforms,
        exclude_newer=request.exclude_newer,
        others=request.others,
        categories=request.categories,
    )


def _variant_differences(options: LockOptions) -> tuple[str, tuple[Difference, ...]]:
    """Return the names of the variants, and the differences of their lockfiles and of each pylock.toml."""
    from envforge.lock.compile import check_pylock
    from envforge.lock.pylock import has_own_pylock
    from envforge.lock.variants import check_variant, variant_request

    request = options.request()
    found: list[Difference] = []
    for name in options.variants:
        own = variant_request(request, options.tag(name))
        differences = check_variant(request, options.tag(name))
        if not differences and (options.pylock or has_own_pylock(own.lockfile)):
            differences = check_pylock(own)
        found += differences
    return f"{request.environment.with_name('lockfiles')} ({', '.join(options.variants)})", tuple(found)


def _finish(request: LockRequest) -> None:
    """Complete an interrupted `add` or `remove`, because an incomplete change can't be compared."""
    from envforge.base.files import exclusive_lock
    from envforge.lock.project import complete_transaction, is_unfinished

    if is_unfinished(request.environment):
        with exclusive_lock(request.lockfile):
            complete_transaction(request.environment)


def report_json(report: LockReport) -> dict[str, Json]:
    """Return the report of a lock as JSON values."""
    sizes = {"sized": "packages_of_known_size", "unsized": "packages_of_unknown_size"}
    platforms: list[Json] = [
        {sizes.get(name, name): value for name, value in fields_to_json(one).items()} for one in report.platforms
    ]
    return {
        "lockfile": str(report.lockfile),
        "platforms": platforms,
        "virtual_packages": list(report.virtual_packages),
        "virtual_packages_from": report.virtual_packages_source,
        "warnings": list(report.warnings),
        "hashed": list(report.hashed),
        "unchanged": report.is_unchanged,
        "changes": list(report.changes),
        "exclude_newer": None if report.exclude_newer.at is None else str(report.exclude_newer),
        "seconds": round(report.seconds, 2),
    }


def pylock_json(report: PylockReport | None) -> dict[str, Json]:
    """Return the field ``pylock`` of a report; no field without ``--pylock``."""
    if report is None:
        return {}
    found: dict[str, Json] = {
        "file": str(report.path),
        "python": f"{report.python.major}.{report.python.minor}",
        "platforms": [
            {
                "platform": one.platform,
                "packages": len(one.packages),
                "differences": list(one.differences),
                "left_out": list(one.left_out),
            }
            for one in report.platforms
        ],
        "not_python": list(report.not_python),
        "categories_left_out": list(report.categories_left_out),
        "unchanged": report.is_unchanged,
        "seconds": round(report.seconds, 2),
    }
    return {"pylock": found}


def pylock_words(report: PylockReport) -> str:
    """Return the text for a pylock.toml: what it has, and how it differs from conda-lock.yml."""
    left_out = [f"  {line}" for line in report.categories_left_out]
    if report.is_unchanged:
        return "\n".join([f"{report.path} is up to date", *left_out])
    lines = [f"{report.path} written, with a SHA-256 for every file ({report.seconds:.1f} s)", *left_out]
    python = f"Python {report.python.major}.{report.python.minor}"
    lines += [f"  {one.platform}: {counted(len(one.packages), 'package')} for {python}" for one in report.platforms]
    for one in report.platforms:
        if one.differences:
            lines += [f"other versions than conda has, for {one.platform}:", *(f"  {line}" for line in one.differences)]
        if one.left_out:
            lines.append(f"locked for conda, but required by no wheel for {one.platform}: {', '.join(one.left_out)}")
    if report.not_python:
        lines.append(f"requested, but not Python packages: {', '.join(report.not_python)}")
    return "\n".join(lines)


def report_words(report: LockReport, *, dry_run: bool = False) -> str:
    """Return the text for a lockfile that was written, or, with ``dry_run``, would be."""
    from envforge.base.urls import show_url

    if report.is_unchanged:
        return "\n".join([f"{report.lockfile} is up to date", *_date(report)])
    verb = "would be written" if dry_run else "written"
    lines = [f"{report.lockfile} {verb}, with a SHA-256 for every package ({report.seconds:.1f} s)"]
    for one in report.platforms:
        torch = f"torch {one.torch}" if one.torch else "no torch"
        counts = f"{counted(one.conda, 'conda package')}, {counted(one.pip, 'wheel')}"
        lines.append(f"  {one.platform}: {torch}; {counts}; {_size(one)}")
    if report.virtual_packages:
        lines.append(f"solved against (from {report.virtual_packages_source}):")
        lines += [f"  {words}" for words in report.virtual_packages]
    lines += _date(report)
    if report.changes:
        lines.append("changes:")
        lines += [f"  {line}" for line in report.changes]
    if report.hashed:
        lines.append("downloaded to compute the SHA-256:")
        lines += [f"  {show_url(url)}" for url in report.hashed]
    return "\n".join(lines)


def _date(report: LockReport) -> list[str]:
    return [] if report.exclude_newer.at is None else [f"packages newer than {report.exclude_newer} are excluded"]


def _size(one: PlatformSummary) -> str:
    """Return the size of the download that ``envforge install`` makes, in gigabytes unless it is small."""
    known = f"{one.bytes / 1e9:.2f} GB" if one.bytes >= 1e8 else f"{one.bytes / 1e6:.1f} MB"
    if not one.unsized:
        return f"{known} to download"
    names = ", ".join(one.unsized[:_SHOWN]) + (", …" if len(one.unsized) > _SHOWN else "")
    return f"{known} to download, plus {counted(len(one.unsized), 'file')} of unknown size ({names})"
