"""``envforge install``: options to one ``InstallRequest``, the report to words or JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.lock_options import DEFAULT_LOCK, stated_lock, variant_option
from envforge.cli.options import (
    cache_option,
    chosen_machine,
    chosen_mirrors,
    json_option,
    mirror_option,
    platform_here,
)
from envforge.cli.prefix_options import DEFAULT_PREFIX
from envforge.cli.progress import megabytes, shown_progress
from envforge.cli.unfinished import refuse_half_change

if TYPE_CHECKING:
    from envforge.bundle import Bundle
    from envforge.install import InstallReport, InstallRequest
    from envforge.machine import Machine
    from envforge.report import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    lock: Path | None
    variant: str | None
    prefix: Path | None
    name: str | None
    offline: bool
    force: bool
    run_scripts: bool
    mirrors: tuple[str, ...]
    cache: Path | None
    ignore_machine: bool
    allow_builds: bool
    locked: bool
    frozen: bool
    bundle: Path | None

    def request(self, lockfile: Path, supply: Bundle | None) -> InstallRequest:
        from envforge.install import InstallRequest

        return InstallRequest(
            lockfile=lockfile,
            prefix=self.where(),
            platform=platform_here(),
            offline=self.offline or supply is not None,
            force=self.force,
            mirrors=chosen_mirrors(self.mirrors),
            run_scripts=self.run_scripts,
            cache=self.cache,
            machine=_here,
            ignore_machine=self.ignore_machine,
            allow_builds=self.allow_builds,
            supply=supply,
        )

    def bundled_lock(self, bundle: Bundle) -> tuple[Path, str]:
        """The bundle's own lock: the file of the project where that is the same, else a copy in the cache."""
        from envforge.errors import RequestError
        from envforge.install.journal import write_whole
        from envforge.install.store import Store, default_root

        if self.variant is not None:
            raise RequestError(
                "--bundle has one lock, and --variant asks for another", hint="leave --variant out", code="two-locks"
            )
        bundle.refuse_other_platform(platform_here())
        near = self.lock or DEFAULT_LOCK
        if near.is_file() and near.read_bytes() == bundle.lock:
            return near, ""
        if self.lock is not None:
            raise RequestError(
                f"`{self.lock}` is not the lock of which `{bundle.path}` has the packages",
                hint="leave LOCK out to install the bundle as it is, or bundle anew: envforge bundle",
                code="two-locks",
            )
        kept = Store((self.cache or default_root()).absolute()).bundled_lock(bundle.lock)
        write_whole(kept, bundle.lock)
        return kept, f"the lock of {bundle.path} is installed; {near} here is another one" if near.exists() else ""

    def chosen_lock(self) -> tuple[Path, str]:
        """The lock that is meant, and why where the machine decided it."""
        from envforge.install.variant_files import list_variants

        stated = stated_lock(self.lock, self.variant)
        if stated is not None or not list_variants(Path()):
            return stated or DEFAULT_LOCK, ""
        from envforge.install.variants import choose_variant

        choice = choose_variant(Path(), chosen_machine(None))
        return choice.lockfile, f"variant {choice.name}: {choice.reason}"

    def where(self) -> Path:
        from envforge.errors import RequestError
        from envforge.install.named import named_prefix

        if self.prefix is not None and self.name is not None:
            raise RequestError(
                "--prefix and --name both say where the environment goes", hint="give one of them", code="two-places"
            )
        return named_prefix(self.name) if self.name is not None else self.prefix or DEFAULT_PREFIX


def _here(*, driver: bool) -> Machine:
    if driver:
        return chosen_machine(None)
    import os

    from envforge.probe import World, probe_system

    return probe_system(World.here(os.environ))


@click.command("install")
@click.argument("lock", type=click.Path(path_type=Path, dir_okay=False), required=False)
@variant_option("Install, whatever this machine is,")
@click.option(
    "--prefix", type=click.Path(path_type=Path, file_okay=False), help="Where the environment goes.  [default: .conda]"
)
@click.option("--name", help="Keep the environment under this name in the user's own folder instead.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Install the lock and the packages of an archive that `envforge bundle` made; ask no server.",
)
@click.option("--offline", is_flag=True, help="Use the cache and local mirrors only; ask no server.")
@click.option("--force", is_flag=True, help="Change a prefix that envforge did not make.")
@click.option("--run-scripts", is_flag=True, help="Run the packages' own link scripts, which may do anything.")
@mirror_option()
@cache_option()
@click.option("--ignore-machine", is_flag=True, help="Install also what this machine cannot run.")
@click.option("--allow-builds", is_flag=True, help="Build source distributions, which runs code of their own.")
@click.option("--locked", is_flag=True, help="Refuse a lock that is not what environment.yml beside it asks for.")
@click.option("--frozen", is_flag=True, help="Do not look at environment.yml at all.")
@json_option()
def install(*, as_json: bool, **options: object) -> None:
    """Install the locked environment, exactly: LOCK is a conda-lock.yml or an @EXPLICIT file.

    Without LOCK that is conda-lock.yml here. Where there are variants in lockfiles/ too, the first of all that fits
    this machine is taken: the newest CUDA first, the CPU build last.

    Every file is checked against the lock before it is linked. Interrupted, the next install completes it; an
    environment that matches its lock already is left as it is.
    """
    from envforge.install import install as run
    from envforge.install import unfinished
    from envforge.report import success

    chosen = _Options(**options)  # type: ignore[arg-type] # click gives each field its type
    began_s = time.monotonic()
    with shown_progress(quiet=as_json) as progress:
        bundle = _opened(chosen.bundle)
        lockfile, reason = chosen.bundled_lock(bundle) if bundle is not None else chosen.chosen_lock()
        if reason:
            progress.note(reason)
        refuse_half_change(lockfile)
        if chosen.locked:
            _require_agreement(lockfile)
        request = chosen.request(lockfile, bundle)
        try:
            report = run(request, progress)
        except KeyboardInterrupt:
            if (step := unfinished(request.prefix)) is not None:
                progress.note(f"{request.prefix} is unfinished since `{step}`; run this command again to complete it")
            raise
        if report.outcome != "unchanged" and not chosen.frozen and _is_stale(lockfile):
            progress.note(f"warning: environment.yml has changed since {lockfile} was made; lock again: envforge lock")
    if as_json:
        click.echo(success("install", _to_json(report)))
    else:
        click.echo(_to_words(report, time.monotonic() - began_s))


def _opened(bundle: Path | None) -> Bundle | None:
    if bundle is None:
        return None
    from envforge.bundle import read_bundle

    return read_bundle(bundle)


def _require_agreement(lockfile: Path) -> None:
    """Raise where environment.yml beside the lock asks for something else than the lock has."""
    from envforge.errors import EnvforgeError
    from envforge.lock.agreement import check

    environment = lockfile.with_name("environment.yml")
    differences = check(environment, lockfile)
    if differences:
        raise EnvforgeError(
            f"`{lockfile}` is not what `{environment}` asks for:" + "".join(f"\n  {found}" for found in differences),
            hint="lock again: envforge lock; or install the lock as it is: leave --locked out",
            code="lock-stale",
        )


def _is_stale(lockfile: Path) -> bool:
    """Whether one of our own locks was made from other bytes than environment.yml beside it has now."""
    from envforge.lock.agreement import INPUT_SHA256
    from envforge.lock.inputs import input_sha256
    from envforge.lock.request import VIRTUAL_PACKAGES
    from envforge.lockfile import LockfileError, read_lockfile

    environment, virtual = lockfile.with_name("environment.yml"), lockfile.with_name(VIRTUAL_PACKAGES)
    if not environment.is_file():
        return False
    try:
        made_from = dict(read_lockfile(lockfile).custom_metadata).get(INPUT_SHA256)
    except LockfileError:  # an explicit file, which says nothing of its input
        return False
    beside = virtual.read_text(encoding="utf-8") if virtual.is_file() else None
    return made_from is not None and made_from != input_sha256(environment.read_text(encoding="utf-8"), beside)


def _to_words(report: InstallReport, lasted_s: float) -> str:
    if report.outcome == "unchanged":
        lines = [f"{report.prefix} already is what {report.lockfile} says ({report.unchanged} packages)"]
    else:
        fetched = f", {megabytes(report.downloaded_bytes)} fetched" if report.downloaded_bytes else ""
        kept = f", {report.unchanged} kept" if report.unchanged else ""
        gone = f", {len(report.removed)} removed" if report.removed else ""
        lines = [
            f"{report.outcome} {len(report.linked)} packages{kept}{gone} in {report.prefix} ({lasted_s:.1f} s{fetched})"
        ]
    if report.scripts:
        lines.append(
            f"not run: the link scripts of {', '.join(report.scripts)}; if a package needs its script, "
            "remove the environment and install with --run-scripts"
        )
    program = report.prefix / ("python.exe" if report.platform.startswith("win-") else "bin/python")
    if program.exists():
        lines.append(f"python: {program}")
    return "\n".join(lines)


def _to_json(report: InstallReport) -> Json:
    return {
        "prefix": str(report.prefix),
        "lockfile": str(report.lockfile),
        "platform": report.platform,
        "outcome": report.outcome,
        "linked": list(report.linked),
        "removed": list(report.removed),
        "unchanged": report.unchanged,
        "downloaded_bytes": report.downloaded_bytes,
        "warnings": list(report.warnings),
        "scripts_not_run": list(report.scripts),
    }
