"""``envforge install``: turn options into one ``InstallRequest``, and the report into text or JSON."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.base.envelope import Json, fields_to_json
from envforge.cli import print_result
from envforge.cli.options import (
    DIRECTORY,
    Argument,
    CacheOption,
    JsonOption,
    MirrorsOption,
    Option,
    chosen_machine,
    chosen_mirrors,
    default_lock,
    fail_on_incomplete_change,
    machine_here,
    platform_here,
    stated_lock,
    takes,
    variant,
)
from envforge.cli.progress import counted, megabytes, shown_progress
from envforge.errors import EnvforgeError, Hint, RequestError

if TYPE_CHECKING:
    from envforge.lock.lockfile import Lockfile
    from envforge.prefix.bundle import Bundle
    from envforge.prefix.values import InstallReport, InstallRequest, PlannedPackage, Preview


class InstallOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge install``."""

    lock: Annotated[Path | None, Argument()] = None
    variant: Annotated[str | None, variant("Install")]
    prefix: Annotated[
        Path | None,
        Option(
            "Install into this directory.  [default: .conda of the project; for a pylock.toml: .venv]", type=DIRECTORY
        ),
    ]
    name: Annotated[str | None, Option("Install into your user data directory, under this name.")]
    bundle: Annotated[
        Path | None,
        Option(
            "Install the lockfile and packages of an archive made by `envforge bundle`, without a network.",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            metavar="FILE",
        ),
    ]
    categories: Annotated[
        tuple[str, ...],
        Option(
            "Install main and the packages of this category. May be provided more than once.  [default: main and dev]",
            "--category",
            metavar="NAME",
        ),
    ]
    dry_run: Annotated[bool, Option("Show what would be downloaded, linked, and removed, without writing.")]
    offline: Annotated[bool, Option("Use only the cache and local mirrors.")]
    force: Annotated[bool, Option("Install into a directory that envforge did not create.")]
    run_scripts: Annotated[bool, Option("Run the packages' link scripts, which can run any code.")]
    mirrors: MirrorsOption
    cache: CacheOption
    ignore_machine: Annotated[bool, Option("Install even if this machine can't run the packages.")]
    allow_builds: Annotated[bool, Option("Build source distributions, which runs their code.")]
    locked: Annotated[
        bool, Option("Exit with an error if the lockfile was edited, or is not up to date with environment.yml.")
    ]
    frozen: Annotated[bool, Option("Don't check whether the lockfile is up to date or was edited.")]
    as_json: JsonOption

    def request(self, lockfile: Path, supply: Bundle | None) -> InstallRequest:
        """Return the request to install ``lockfile``, with the packages of a bundle if there is one."""
        from envforge.prefix.values import InstallRequest

        return InstallRequest(
            lockfile=lockfile,
            prefix=self.where(lockfile),
            platform=platform_here(),
            offline=self.offline or supply is not None,
            force=self.force,
            mirrors=chosen_mirrors(self.mirrors),
            run_scripts=self.run_scripts,
            cache=self.cache,
            machine=machine_here,
            ignore_machine=self.ignore_machine,
            allow_builds=self.allow_builds,
            supply=supply,
            estimate=True,
            categories=tuple(sorted(set(self.categories))),
        )

    def bundled_lock(self, bundle: Bundle) -> tuple[Path, str]:
        """Return the bundle's lockfile: the project's own if it is the same, else a copy in the cache, and a note."""
        from envforge.base.files import write_atomic
        from envforge.lock.project import LOCK_FILE, PYLOCK
        from envforge.lock.pylock import is_own
        from envforge.prefix.cache import Store, default_root

        if self.variant is not None:
            raise RequestError(
                "`--bundle` and `--variant` can't be used together",
                hint="to install the one lockfile of the bundle, omit `--variant`",
                code="two-locks",
            )
        bundle.refuse_other_platform(platform_here())
        name = PYLOCK if is_own(bundle.lock.decode("utf-8", "replace")) else LOCK_FILE
        near = self.lock or default_lock().with_name(name)
        if near.is_file() and near.read_bytes() == bundle.lock:
            return near, ""
        if self.lock is not None:
            raise RequestError(
                f"`{self.lock}` is not the lockfile of the bundle `{bundle.path}`",
                hint=(
                    Hint("to install the bundle as it is, omit LOCK"),
                    Hint("to bundle this lockfile", shlex.join(["envforge", "bundle", str(self.lock)])),
                ),
                code="two-locks",
            )
        kept = Store((self.cache or default_root()).absolute()).bundled_lock(bundle.lock, name)
        write_atomic(kept, bundle.lock)
        note = f"note: installing the lockfile of {bundle.path}, which differs from {near}"
        return kept, note if near.exists() else ""

    def chosen_lock(self) -> tuple[Path, str]:
        """Return the lockfile, and the reason if the machine selected it."""
        from envforge.lock.lockfile import list_variants
        from envforge.lock.project import project_here

        stated = stated_lock(self.lock, self.variant)
        if stated is not None or not list_variants(project_here()):
            return stated or default_lock(), ""
        from envforge.lock.needs import choose_variant

        choice = choose_variant(project_here(), chosen_machine(None))
        return choice.lockfile, f"variant {choice.name}: {choice.reason}"

    def where(self, lockfile: Path) -> Path:
        """Return the directory of the environment: by default ``.conda`` of the project, or ``.venv`` for a pylock."""
        from envforge.lock.project import IN_PROJECT, VENV_IN_PROJECT, is_pylock, project_here
        from envforge.prefix.locate import named_prefix

        if self.prefix is not None and self.name is not None:
            raise RequestError(
                "`--prefix` and `--name` can't be used together",
                hint="to select one environment, omit `--prefix` or `--name`",
                code="two-places",
            )
        if self.name is not None:
            return named_prefix(self.name)
        return self.prefix or project_here() / (VENV_IN_PROJECT if is_pylock(lockfile) else IN_PROJECT)


@click.command("install")
@takes(InstallOptions)
def install(options: InstallOptions) -> None:
    """Install the environment of a lockfile exactly. LOCK is a conda-lock.yml, a pylock.toml, or an @EXPLICIT file.

    A pylock.toml, as `envforge lock --pylock` writes it, becomes a virtual environment in .venv of the project. It
    requires a Python of its version on this machine.

    LOCK defaults to the project's conda-lock.yml. If the project has variants in lockfiles/, envforge installs the
    first lockfile that supports this machine: the newest CUDA first, the CPU build last.

    envforge verifies every file against the lockfile before it links it. If an install is interrupted, run the command
    again to complete it. An environment that already matches its lockfile is left unchanged.
    """
    from envforge.prefix.install import install as run
    from envforge.prefix.install import preview
    from envforge.prefix.journal import unfinished

    began_s = time.monotonic()
    with shown_progress(quiet=options.as_json) as progress:
        bundle = None if options.bundle is None else _opened(options.bundle)
        lockfile, reason = options.bundled_lock(bundle) if bundle is not None else options.chosen_lock()
        if reason:
            progress.note(reason)
        # before anything else: the lockfile may be the old one of a change, whose environment.yml is new
        fail_on_incomplete_change(lockfile)
        if options.locked:
            _require_agreement(lockfile)
        elif not options.frozen and (warning := _stale_warning(lockfile)):
            progress.note(f"warning: {warning}")
        request = options.request(lockfile, bundle)
        if options.dry_run:
            ahead = preview(request, progress)
        else:
            try:
                report = run(request, progress)
            except KeyboardInterrupt:
                if (step := unfinished(request.prefix)) is not None:
                    state = f"{request.prefix} is incomplete (last step: `{step}`)"
                    progress.note(f"{state}; to complete it, run this command again")
                raise
    if options.dry_run:
        result, text = _preview_to_json(ahead), "\n".join(_preview_to_words(ahead, offline=request.offline))
    else:
        result = {**fields_to_json(report, "scripts"), "scripts_not_run": list(report.scripts)}
        text = _to_words(report, time.monotonic() - began_s)
    print_result("install", result, text, as_json=options.as_json)


def _opened(bundle: Path) -> Bundle:
    from envforge.prefix.bundle import read_bundle

    return read_bundle(bundle)


def _require_agreement(lockfile: Path) -> None:
    """Raise ``EnvforgeError`` if the environment.yml next to the lockfile requires something else than is locked."""
    from envforge.lock.check import check_lock
    from envforge.lock.lockfile import read_lockfile, recorded_sources
    from envforge.lock.project import is_pylock, lock_command
    from envforge.lock.pylock import lockfile_of

    made_from = lockfile_of(lockfile) if is_pylock(lockfile) else lockfile
    environment, *others = recorded_sources(made_from)
    if not environment.exists():
        raise EnvforgeError(
            f"`{environment}` does not exist, so `{lockfile}` can't be compared with it, but `--locked` was provided",
            hint="to install the lockfile as it is, omit `--locked`",
            code="unreadable-input",
        )
    categories = read_lockfile(made_from).categories
    differences = check_lock(environment, made_from, others=tuple(others), categories=categories)
    if made_from != lockfile and not differences:
        from envforge.lock.compile import check_pylock
        from envforge.lock.request import LockRequest

        request = LockRequest(environment=environment, lockfile=made_from, others=tuple(others), categories=categories)
        differences = check_pylock(request)
    if differences:
        raise EnvforgeError(
            f"the lockfile `{lockfile}` needs to be updated to match `{environment}`, but `--locked` was provided:"
            + "".join(f"\n  {found}" for found in differences),
            hint=(Hint("to update the lockfile", lock_command(lockfile)), Hint("to install it as is, omit `--locked`")),
            code="lock-stale",
        )


def _stale_warning(lockfile: Path) -> str:
    """Return a warning if a lockfile was edited or isn't up to date.

    A pylock.toml is compared with the conda-lock.yml beside it.
    """
    from envforge.lock.lockfile import LockfileError, read_lockfile
    from envforge.lock.plan import read_any_lock
    from envforge.lock.project import is_pylock, lock_command

    lock = read_any_lock(lockfile, platform_here())
    if lock.was_edited:
        edited, restore = f"`{lockfile}` was edited after envforge wrote it", lock_command(lockfile)
        return f"{edited}; {Hint('to restore it', restore)}" if restore else edited
    if not is_pylock(lockfile):
        return _staleness(lockfile, lock)
    from envforge.lock.pylock import LOCK_SHA256, lock_sha256, lockfile_of

    beside = lockfile_of(lockfile)
    made_from = dict(lock.custom_metadata).get(LOCK_SHA256)
    if not made_from or not beside.is_file():
        return ""
    try:
        source = read_lockfile(beside)
    except LockfileError as error:
        return f"{error.message}; `{lockfile}` can't be compared with it, and is installed as it is"
    if lock_sha256(source) == made_from:
        return _staleness(beside, source)
    changed = f"`{beside}` has changed since `{lockfile}` was created"
    return f"{changed}; {Hint('to update it', lock_command(lockfile))}"


def _staleness(lockfile: Path, lock: Lockfile) -> str:
    """Return a warning if envforge made the lockfile from another environment.yml than the one next to it."""
    from envforge.lock.lockfile import INPUT_SHA256, recorded_sources, sources_in
    from envforge.lock.project import lock_command, recorded_sha256

    files = recorded_sources(lockfile)
    environment = files[0]
    recorded = sources_in(lockfile)
    missing = [path for path in recorded if not path.is_file()]
    if not environment.is_file():
        return ""
    if missing and environment in recorded:
        return f"`{missing[0]}` does not exist; the lockfile can't be compared with it, and is installed as it is"
    made_from = dict(lock.custom_metadata).get(INPUT_SHA256)
    if made_from is None:
        return ""
    try:
        if recorded_sha256(files) == made_from:
            return ""
        from envforge.lock.inputs import read_inputs

        read_inputs(environment, None, others=files[1:])  # an invalid file has no content to update the lockfile to
    except EnvforgeError as error:
        return f"{error.message}; the lockfile can't be compared with it, and is installed as it is"
    changed = f"`{environment}` has changed since `{lockfile}` was created"
    return f"{changed}; {Hint('to update the lockfile', lock_command(lockfile))}"


def _to_words(report: InstallReport, lasted_s: float) -> str:
    if report.outcome == "unchanged":
        lines = [f"{report.prefix} already matches {report.lockfile} ({counted(report.unchanged, 'package')})"]
    else:
        fetched = f", {megabytes(report.downloaded_bytes)} downloaded" if report.downloaded_bytes else ""
        kept = f", {report.unchanged} kept" if report.unchanged else ""
        gone = f", {len(report.removed)} removed" if report.removed else ""
        packages = counted(len(report.linked), "package")
        lines = [f"{report.outcome} {packages}{kept}{gone} in {report.prefix} ({lasted_s:.1f} s{fetched})"]
    if report.scripts:
        lines.append(
            f"note: the link scripts of {', '.join(report.scripts)} were not run; if a package requires its script, "
            "remove the environment, then run this command again with `--run-scripts`"
        )
    windows = ("python.exe", "Scripts/python.exe")
    places = windows if report.platform.startswith("win-") else ("bin/python",)
    program = next((found for place in places if (found := report.prefix / place).exists()), None)
    if program is not None:
        lines.append(f"python: {program}")
    return "\n".join(lines)


def _preview_to_words(ahead: Preview, *, offline: bool) -> list[str]:
    if not ahead.files and not ahead.removed:
        return [f"{ahead.prefix} already matches {ahead.lockfile} ({counted(ahead.unchanged, 'package')})"]
    missing = [file for file in ahead.files if not file.is_cached]
    rows = [
        f"  {_state(file, offline=offline):<8}  {_gigabytes(file.bytes):>9}  {file.label}"
        for file in sorted(ahead.files, key=lambda file: (file.is_cached, -(file.bytes or 0), file.label))
    ]
    cached = len(ahead.files) - len(missing)
    linked = counted(len(ahead.files), "package")
    return [
        f"would link {linked} into {ahead.prefix}, remove {len(ahead.removed)}, and keep {ahead.unchanged}",
        _to_fetch(ahead, missing, cached, offline=offline),
        *rows,
        *(f"  remove               {name}" for name in ahead.removed),
    ]


def _state(file: PlannedPackage, *, offline: bool) -> str:
    """Return where a file comes from; without a network, only a bundle or local mirror can report a size."""
    if file.is_cached:
        return "cached"
    return "missing" if offline and file.bytes is None else "download"


def _to_fetch(ahead: Preview, missing: list[PlannedPackage], cached: int, *, offline: bool) -> str:
    """Return the line about the files that the cache lacks."""
    absent = sum(_state(file, offline=offline) == "missing" for file in missing)
    if absent:
        verb = "is" if absent == 1 else "are"
        missed = f"{counted(absent, 'file')} {verb} not in the cache{_of_catalogue(ahead)}"
        return f"{missed}, so `--offline` would fail; the cache has {cached}"
    size = _known(missing) or (_of_catalogue(ahead) if missing else "")
    return f"would download {counted(len(missing), 'file')}{size}; the cache has {cached}"


def _of_catalogue(ahead: Preview) -> str:
    """Return the size of the complete download as the built-in catalogue has it, if the lockfile comes from there."""
    from envforge.base.data_files import lockfiles_root
    from envforge.catalogue.index import list_entries
    from envforge.lock.plan import read_any_lock

    def digests(path: Path) -> set[str | None]:
        return {package.sha256 for package in read_any_lock(path, ahead.platform).for_platform(ahead.platform)}

    try:
        wanted = digests(ahead.lockfile)
        # the number of files first, because reading each lockfile of the catalogue takes long
        near = [entry for entry in list_entries(lockfiles_root()) if entry.requirements.files == len(wanted)]
        found = next((entry.requirements for entry in near if digests(entry.path) == wanted), None)
    except EnvforgeError:  # the sizes are a help, not a condition
        return ""
    if found is None:
        return ""
    known = f"{found.files_sized} of {found.files}"
    return f" (in total {_gigabytes(found.download_bytes)} for {known} files, from the catalogue)"


def _known(missing: list[PlannedPackage]) -> str:
    """Return the size of the download, as far as servers report it."""
    sizes = [file.bytes for file in missing if file.bytes is not None]
    if not sizes:
        return ""
    unknown = len(missing) - len(sizes)
    return f" ({_gigabytes(sum(sizes))}{f', and {unknown} of unknown size' if unknown else ''})"


def _gigabytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def _preview_to_json(ahead: Preview) -> dict[str, Json]:
    files: list[Json] = [{"package": file.label, "cached": file.is_cached, "bytes": file.bytes} for file in ahead.files]
    return {"dry_run": True, **fields_to_json(ahead), "files": files}
