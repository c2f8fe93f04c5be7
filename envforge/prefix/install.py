"""Install a lockfile into a prefix, step by step.

If the early attempt fails, or a conda package contains the same library, the wheels are installed after the conda
packages.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, Hint
from envforge.lock.lockfile import Lockfile, Manager
from envforge.lock.needs import asks_driver, concerns, describe, read_needs, unmet
from envforge.lock.plan import Artifact, Plan, make_plan, read_any_lock, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY, is_environment
from envforge.prefix.cache import Store, default_root, in_use
from envforge.prefix.conda_history import record_install, requested_specs
from envforge.prefix.conda_packages import Archive, Joined, check_linkable, link, read_records, site_packages_path
from envforge.prefix.fetch import Fetched, check_room_to_copy
from envforge.prefix.installed import (
    conda_owners,
    editable_installs,
    pip_installed,
    read_conda,
    read_distributions,
    site_packages_of,
)
from envforge.prefix.journal import (
    Journal,
    journal_path,
    keep_lockfile,
    lock_prefix,
    read_journal,
    write_journal,
)
from envforge.prefix.obtain import Obtained, obtain
from envforge.prefix.own_files import editable_command, put_back, set_aside
from envforge.prefix.values import (
    InstallProgress,
    InstallReport,
    InstallRequest,
    Outcome,
    PlannedPackage,
    Preview,
    Silent,
    progress_step,
)
from envforge.prefix.venv import create_venv, find_interpreter, is_venv_of, seed_packages, venv_python
from envforge.prefix.wheels import (
    Batch,
    Site,
    build_wheels,
    check_places,
    find_site,
    install_wheels,
    stand_alone,
    uninstall,
    verify_wheels,
)

if TYPE_CHECKING:
    from rattler import PrefixRecord


def install(request: InstallRequest, progress: InstallProgress | None = None) -> InstallReport:
    """Make a prefix match its lockfile; an interrupted install is completed."""
    progress = progress or Silent()
    request, lockfile, plan = _planned(request, progress)
    prefix = request.prefix
    existed = prefix.exists()
    try:
        with lock_prefix(prefix, progress):
            before = read_journal(prefix)
            if before is not None and not request.reinstall and _matches(before, plan, prefix):
                _name_editables(editable_installs(prefix).items(), progress)
                now = replace(before, categories=request.categories, variables=lockfile.variables)
                if now != before:
                    write_journal(prefix, now)
                return _unchanged(request, plan)
            work = Installation(request=request, lockfile=lockfile, plan=plan, progress=progress, before=before)
            with in_use(work.store.root), work.removals:
                return work.run()
    except BaseException:
        _leave_no_trace(prefix, existed=existed)
        raise


def preview(request: InstallRequest, progress: InstallProgress | None = None) -> Preview:
    """Return what ``install`` would do, without writing anything."""
    progress = progress or Silent()
    request, lockfile, plan = _planned(request, progress)
    before = read_journal(request.prefix)
    if before is not None and not request.reinstall and _matches(before, plan, request.prefix):
        return Preview(
            prefix=request.prefix,
            lockfile=request.lockfile,
            platform=plan.platform,
            unchanged=len(plan.conda) + len(plan.wheels),
            warnings=plan.warnings,
        )
    return Installation(request=request, lockfile=lockfile, plan=plan, progress=progress, before=before).preview()


def _planned(request: InstallRequest, progress: InstallProgress) -> tuple[InstallRequest, Lockfile, Plan]:
    """Return the request with an absolute prefix, the lockfile, and the plan.

    Raises ``EnvforgeError`` for a foreign prefix.
    """
    # packages record the prefix, so it may not contain `..`
    request = replace(request, prefix=Path(os.path.abspath(request.prefix)))  # noqa: PTH100 - keep symbolic links
    lockfile = read_any_lock(request.lockfile, request.platform)
    plan = make_plan(
        lockfile,
        request.platform,
        request.lockfile,
        allow_builds=request.allow_builds,
        categories=request.categories,
    )
    request = replace(request, access_variables=lockfile.access_variables)
    for warning in plan.warnings:
        progress.note(f"warning: {warning}")
    _refuse_foreign(request)
    return request, lockfile, plan


def _leave_no_trace(prefix: Path, *, existed: bool) -> None:
    """Remove the directory of the lock file unless the prefix has a journal or another install holds it."""
    if journal_path(prefix).exists() or (prefix / ENVFORGE_DIRECTORY / "holder").exists():
        return
    shutil.rmtree(prefix / ENVFORGE_DIRECTORY, ignore_errors=True)
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
    if any(prefix.iterdir()) and not (prefix / ENVFORGE_DIRECTORY).is_dir():
        adopt = shlex.join(["envforge", "audit", str(request.lockfile), "--adopt", "--prefix", str(prefix)])
        hint = "to install into another directory, pass `--prefix DIR`; to change the packages in this one, pass "
        raise EnvforgeError(
            f"`{prefix}` is not empty, and envforge did not create it",
            hint=(
                Hint(f"{hint}`--force`"),
                *([Hint("to manage it with envforge if it already matches", adopt)] if is_environment(prefix) else []),
            ),
            code="prefix-foreign",
        )


def _name_editables(editable: Iterable[tuple[str, str]], progress: InstallProgress) -> None:
    for name, url in editable:
        progress.note(f"kept the editable install of `{name}` (`{show_url(url)}`), which is not locked")


def _unchanged(request: InstallRequest, plan: Plan) -> InstallReport:
    return InstallReport(
        prefix=request.prefix,
        lockfile=request.lockfile,
        platform=plan.platform,
        outcome="unchanged",
        unchanged=len(plan.conda) + len(plan.wheels),
        warnings=plan.warnings,
    )


Named = frozenset[tuple[Manager, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The smallest set of changes that makes a prefix match a plan.

    ``wheels_replaced`` are uninstalled before conda packages with the same files are linked.
    """

    conda: tuple[Artifact, ...]
    conda_kept: tuple[str, ...]
    conda_removed: tuple[str, ...]
    wheels: tuple[Artifact, ...]
    wheels_removed: tuple[str, ...]
    wheels_replaced: tuple[str, ...] = ()
    venv_kept: bool = False  # the prefix is a virtual environment with the Python of the lockfile


def _compute_changes(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    reinstall: Named = frozenset(),
) -> Changes:
    """Compare a plan with a prefix.

    ``conda`` maps the names of the prefix's conda packages to the checksums of their archives. ``wheels`` are the
    normalized names of the distributions that pip or uv installed. ``reinstall`` lists packages to install again even
    if they match.
    """
    wanted = {artifact.package.name: artifact for artifact in plan.conda}
    same = {name for name, a in wanted.items() if a.digest.hex in conda.get(name, ())}
    kept = {name for name in same if ("conda", name) not in reinstall}
    trusted = {name for name in wheels if ("pip", name) not in reinstall}
    known = {wheel.name: wheel for wheel in (journal.wheels if journal else ()) if wheel.name in trusted}
    python_kept = "python" in same or "python" not in wanted
    names = {wheel_of(artifact).name for artifact in plan.wheels}
    return Changes(
        conda=tuple(artifact for name, artifact in wanted.items() if name not in kept),
        conda_kept=tuple(sorted(kept)),
        conda_removed=tuple(sorted(set(conda) - set(wanted))),
        wheels=tuple(a for a in plan.wheels if not python_kept or known.get(wheel_of(a).name) != wheel_of(a)),
        wheels_removed=tuple(sorted(wheels - names)),
    )


def _matches(journal: Journal, plan: Plan, prefix: Path) -> bool:
    """Return whether a complete prefix has the planned packages, judged by names only; ``audit`` reads the files."""
    if journal.step != "verified" or journal.fingerprint != plan.fingerprint or journal.was_moved(prefix):
        return False
    if tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json"))) != plan.records:
        return False
    if plan.python is not None and not is_venv_of(prefix, plan.python):
        return False
    wheels = frozenset(wheel.name for wheel in journal.wheels)
    return wheels == _found_wheels(prefix, journal, wheels) - editable_installs(prefix).keys()


def _found_wheels(prefix: Path, journal: Journal | None, locked: Collection[str]) -> frozenset[str]:
    """Return what pip or uv installed, without the packages that a virtual environment of another tool began with."""
    return pip_installed(prefix) - (seed_packages(prefix, is_created=_is_created(journal, prefix)) - frozenset(locked))


def _is_created(journal: Journal | None, prefix: Path) -> bool:
    """Return whether the prefix belongs to envforge: it created the prefix, or the prefix is new or empty."""
    if journal is not None:
        return journal.created
    return not prefix.exists() or all(path.name == ENVFORGE_DIRECTORY for path in prefix.iterdir())


def _needed_changes(plan: Plan, journal: Journal | None, request: InstallRequest) -> Changes:
    """Return what must change, given what the prefix can be trusted to contain."""
    prefix = request.prefix
    editable = {name for name in editable_installs(prefix) if ("pip", name) not in request.reinstall}
    locked = {wheel_of(artifact).name for artifact in plan.wheels}
    everything = _compute_changes(plan, None, {}, frozenset())
    created, stands = _is_created(journal, prefix), _conda_stands(journal, plan)
    # an environment that envforge began is emptied and linked again, which takes seconds with a cache and leaves
    # nothing half-linked; in a directory taken with `--force`, files of no package are kept
    if (created and not stands) or (journal is not None and journal.was_moved(prefix)):
        return everything
    # or a conda environment for a pylock.toml, or the reverse
    is_other_python = not is_venv_of(prefix, plan.python) if plan.python else venv_python(prefix) is not None
    if created and is_other_python:
        return everything
    records = {record.name.normalized: record for record in read_records(prefix)}
    python = next((a.package.version for a in plan.conda if a.package.name == "python"), None)
    if created and _minor(python) != _minor(_version(records.get("python"))):
        return everything
    conda = {name: _checksums(record) if journal is None or stands else frozenset() for name, record in records.items()}
    trusted = journal if journal is not None and journal.step == "verified" else None
    wheels = _found_wheels(prefix, journal, locked) - editable
    changes = _with_shared_files(plan, trusted, conda, wheels, request)
    return replace(changes, venv_kept=plan.python is not None and not is_other_python)


def _with_shared_files(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    request: InstallRequest,
) -> Changes:
    """Compute the changes, and install again what a package of the other manager shares files with.

    If a wheel that replaced files of a conda package leaves, the conda package is linked again. If such a conda package
    changes, the wheel is.
    """
    again = request.reinstall
    changes = _compute_changes(plan, journal, conda, wheels, again)
    if not (changes.conda or changes.conda_removed or changes.wheels or changes.wheels_removed):
        return changes
    shared = _shared(request.prefix)
    while True:
        changing = {artifact.package.name for artifact in changes.conda} | set(changes.conda_removed)
        leaving = {wheel_of(artifact).name for artifact in changes.wheels} | set(changes.wheels_removed)
        more: set[tuple[Manager, str]] = set()
        for wheel, owners in shared.items():
            if wheel in leaving:
                more |= {("conda", name) for name in owners}
            elif not changing.isdisjoint(owners):
                more.add(("pip", wheel))
        if more <= again:
            replaced = tuple(sorted(shared.keys() & leaving - set(changes.wheels_removed)))
            return replace(changes, wheels_replaced=replaced)
        again |= more
        changes = _compute_changes(plan, journal, conda, wheels, again)


def _shared(prefix: Path) -> dict[str, frozenset[str]]:
    conda = read_conda(prefix)
    site_packages = site_packages_of(conda, prefix)
    return conda_owners(conda, read_distributions(prefix, site_packages, conda)) if site_packages else {}


def _conda_stands(journal: Journal | None, plan: Plan) -> bool:
    """Return whether the journal shows that the conda packages are intact, those of this lockfile or of any."""
    if journal is None or journal.step == "planned":
        return False
    return journal.step == "verified" or journal.fingerprint == plan.fingerprint


def _checksums(record: PrefixRecord) -> frozenset[str]:
    """Return the checksums that a lockfile may state for a linked archive."""
    return frozenset(digest.hex() for digest in (record.sha256, record.md5) if digest)


def _version(record: PrefixRecord | None) -> str | None:
    return None if record is None else str(record.version)


def _minor(version: str | None) -> tuple[str, ...]:
    return tuple((version or "").split(".")[:2])


def split_python(archives: Iterable[Archive]) -> tuple[tuple[Archive, ...], tuple[Archive, ...]]:
    """Return Python with its dependencies, and all other packages; the first is empty if there is no Python."""
    named = {archive.record.name.normalized: archive for archive in archives}
    needed: dict[str, Archive] = {}
    waiting = deque(["python"])
    while waiting:
        name = waiting.popleft()
        if name in named and name not in needed:
            needed[name] = named[name]
            waiting.extend(words.split()[0] for words in named[name].record.depends if words.strip())
    return tuple(needed.values()), tuple(archive for name, archive in named.items() if name not in needed)


_SCRIPTS = ("post-link", "pre-link")


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """One install into a locked prefix. ``before`` is the journal of the existing prefix."""

    request: InstallRequest
    lockfile: Lockfile
    plan: Plan
    progress: InstallProgress
    before: Journal | None
    # files that were only needed to unpack packages are removed while packages are linked
    removals: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="remove"))

    @property
    def store(self) -> Store:
        """The cache of this install."""
        return Store((self.request.cache or default_root()).absolute())

    def run(self) -> InstallReport:
        """Run every step; if one fails before the journal records ``planned``, the prefix is unchanged."""
        self._check_machine()
        request, store = self.request, self.store
        todo = _needed_changes(self.plan, self.before, request)
        self._refuse_other_venv(todo)
        # before the prefix changes, because the machine may lack this Python
        interpreter = find_interpreter(self.plan.python) if self.plan.python and not todo.venv_kept else ""
        obtained = self._obtain((*todo.conda, *todo.wheels))
        check_room_to_copy(map(store.unpacked, (*todo.conda, *todo.wheels)), request.prefix, store)
        self._check_joined(obtained, todo)
        self._note_editables(todo)
        journal = self._begin(todo)
        try:
            self._change(todo, obtained, journal, interpreter)
        except EnvforgeError as error:
            again = journal.again(
                shlex.join(["envforge", "install", journal.lockfile, "--prefix", str(request.prefix)])
            )
            incomplete = f"`{request.prefix}` is incomplete; to complete it once the cause is fixed"
            error.hints = (*error.hints, Hint(incomplete, again))
            raise
        return self._report(self._outcome(journal), todo, obtained.downloaded_bytes)

    def _change(self, todo: Changes, obtained: Obtained, journal: Journal, interpreter: str) -> None:
        """Change the prefix; the journal records each step."""
        request, progress, store = self.request, self.progress, self.store
        if "python" in todo.conda_kept:  # first, because the new conda packages may contain the same libraries
            self._uninstall(todo, store)
        if interpreter:
            create_venv(request.prefix, interpreter)
        specs = requested_specs(self.lockfile, request.lockfile, self.plan)
        batch = self._conda(todo, obtained, specs)
        write_journal(request.prefix, journal.at("conda done"))
        self._wheels(todo, obtained, batch)
        record_install(request.prefix, self.plan, specs, linked=todo.conda)
        put_back(request.prefix, progress)  # before the journal says that nothing is left to do
        write_journal(request.prefix, journal.at("verified"))

    def _obtain(self, artifacts: tuple[Artifact, ...]) -> Obtained:
        self.removals.submit(bool).result()  # a file that is brought again must not be removed
        python = next(
            (a.package.version for a in self.plan.conda if a.package.name == "python"), self.plan.python or ""
        )
        minor = ".".join(str(python).split(".")[:2])
        return obtain(artifacts, self.store, self.request, self.progress, minor, self.removals)

    def preview(self) -> Preview:
        """Return what ``run`` would do, without writing anything; the network is used only for file sizes."""
        self._check_machine()
        todo = _needed_changes(self.plan, self.before, self.request)
        artifacts = (*todo.conda, *todo.wheels)
        sizes = {artifact: size for artifact in artifacts if (size := self.store.cached_bytes(artifact)) is not None}
        cached = set(sizes)
        missing = tuple(artifact for artifact in artifacts if artifact not in cached)
        if missing:
            from envforge.prefix.fetch import sizes_of  # noqa: PLC0415 - imports an HTTP client

            sizes |= sizes_of(missing, self.request, self.progress)
        return Preview(
            prefix=self.request.prefix,
            lockfile=self.request.lockfile,
            platform=self.plan.platform,
            files=tuple(
                PlannedPackage(label=artifact.label, is_cached=artifact in cached, bytes=sizes.get(artifact))
                for artifact in artifacts
            ),
            removed=(*todo.conda_removed, *todo.wheels_removed),
            unchanged=len(self.plan.conda) + len(self.plan.wheels) - len(artifacts),
            warnings=self.plan.warnings,
        )

    def _refuse_other_venv(self, todo: Changes) -> None:
        """Raise ``EnvforgeError`` for a directory taken with ``--force`` that has no Python of the lockfile."""
        if self.plan.python is not None and not todo.venv_kept and not _is_created(self.before, self.request.prefix):
            raise EnvforgeError(
                f"`{self.request.prefix}` is not a virtual environment of Python {self.plan.python}, which "
                f"`{self.request.lockfile}` requires",
                hint="to create a virtual environment, pass `--prefix DIR` with a new directory",
                code="prefix-foreign",
            )

    def _check_machine(self) -> None:
        """Raise ``EnvforgeError`` if the machine doesn't meet the requirements, before anything is downloaded."""
        if self.request.machine is None:
            return
        driver = asks_driver(self.plan)
        matrix = None
        if driver:
            from envforge.pytorch.matrix import load_matrix  # noqa: PLC0415 - only CUDA needs it

            matrix = load_matrix()
        machine = self.request.machine(driver=driver)
        needs = read_needs(self.plan, matrix)
        reasons = unmet(needs, machine, matrix)
        for text in (*concerns(needs, machine), *(reasons if self.request.ignore_machine else ())):
            self.progress.note(f"warning: {text}")
        if reasons and not self.request.ignore_machine:
            raise EnvforgeError(
                f"this machine doesn't meet the requirements of `{self.request.lockfile}` ({describe(needs, matrix)}):"
                + "".join(f"\n  {reason}" for reason in reasons),
                hint=(
                    Hint("to see which builds this machine supports", "envforge explain"),
                    Hint("to install anyway, pass `--ignore-machine`"),
                ),
                code="machine-unfit",
            )

    def _outcome(self, journal: Journal) -> Outcome:
        if self.before is None:
            return "installed" if journal.created else "updated"
        return "updated" if self.before.step == "verified" else "completed"

    def _conda(self, todo: Changes, obtained: Obtained, specs: Mapping[str, str]) -> Batch | None:
        """Link the conda packages, and return the wheels if they could be installed at the same time."""
        archives, store = obtained.conda, self.store
        if not archives and not todo.conda_removed:
            return None
        with progress_step(self.progress, "linking", len(archives), "packages"):
            if not self._halves_are_apart(todo, obtained.wheels):
                link(archives, todo.conda_removed, specs, store, self.request, self.progress)
                return None
            python, rest = split_python(archives)
            link(python, (), specs, store, self.request, self.progress)
            batch = self._batch(obtained.wheels, find_site(self.request.prefix, self.plan.platform), obtained)
            with ThreadPoolExecutor(1, thread_name_prefix="wheels") as pool:
                early = pool.submit(install_wheels, replace(batch, progress=Silent()))
                link(rest, (), specs, store, self.request, self.progress)
        try:
            early.result()
        except EnvforgeError:  # the second attempt, after all conda packages, reports it
            return None
        return batch if stand_alone(batch) else None

    def _halves_are_apart(self, todo: Changes, wheels: tuple[Fetched, ...]) -> bool:
        """Return whether wheels may be installed while conda packages are linked: a new prefix and no common name."""
        # linking uses one core and uv another; they may overlap only if it can't matter which of them writes a file
        # last
        conda = {canonicalize_name(artifact.package.name) for artifact in todo.conda}
        return (
            bool(wheels)
            and "python" in conda
            and self._empties(todo)
            and not self.request.run_scripts
            and not any(item.artifact.is_source or wheel_of(item.artifact).name in conda for item in wheels)
        )

    def _batch(self, wheels: tuple[Fetched, ...], site: Site, obtained: Obtained) -> Batch:
        return Batch(
            wheels=wheels,
            site=site,
            store=self.store,
            progress=self.progress,
            renew=self._obtain,
            reread=self.request.reread,
            began_ns=obtained.began_ns,
        )

    def _wheels(self, todo: Changes, obtained: Obtained, batch: Batch | None) -> None:
        """Install the wheels unless ``batch`` contains installed ones, and verify their files."""
        if not obtained.wheels and not todo.wheels_removed:
            return
        if batch is None:
            site, store = find_site(self.request.prefix, self.plan.platform), self.store
            ready = build_wheels(obtained.wheels, site, store, offline=self.request.offline, progress=self.progress)
            if "python" not in todo.conda_kept:
                self._uninstall(todo, store)
            batch = self._batch(tuple(ready), site, obtained)
            install_wheels(batch)
        verify_wheels(batch)

    def _uninstall(self, todo: Changes, store: Store) -> None:
        gone = (*todo.wheels_removed, *todo.wheels_replaced)
        if gone:
            uninstall(gone, find_site(self.request.prefix, self.plan.platform), store)

    def _check_joined(self, obtained: Obtained, todo: Changes) -> None:
        """Raise ``EnvforgeError`` if packages write outside the prefix through links; report common files."""
        archives = obtained.conda
        if not archives:
            return
        emptied = self._empties(todo)
        records = () if emptied else read_records(self.request.prefix)
        records = tuple(record for record in records if record.name.normalized not in todo.conda_removed)
        every = [*records, *(archive.record for archive in archives)]
        python = next((record for record in reversed(every) if record.name.normalized == "python"), None)
        check_linkable(archives, self.request.prefix, self.plan.platform, python)
        site_packages = site_packages_path(python, self.plan.platform) if python else "site-packages"
        joined = Joined(archives=archives, site_packages=site_packages, prefix=None if emptied else self.request.prefix)
        joined.check()
        # uv writes wheels while conda packages are linked, so the links on the disk show only later where files arrive
        site = Site(prefix=Path(), packages=Path(site_packages), program=Path("bin/python"))
        wheels = (item for item in obtained.wheels if not item.artifact.is_source)
        check_places(wheels, site, self.store, joined.resolve)
        kept = {record.name.normalized: map(Path.as_posix, record.files) for record in records}
        linked = {archive.record.name.normalized for archive in archives}
        for warning in joined.shared({name: files for name, files in kept.items() if name not in linked}):
            self.progress.note(f"warning: {warning}")

    def _note_editables(self, todo: Changes) -> None:
        locked = {wheel_of(artifact).name for artifact in self.plan.wheels}
        for name, url in editable_installs(self.request.prefix).items():
            if ("pip", name) in self.request.reinstall:
                continue
            shown = f"the editable install of `{name}` (`{show_url(url)}`)"
            if name in locked:
                self.progress.note(f"the locked wheel of `{name}` replaces {shown}")
            elif not self._empties(todo):
                _name_editables([(name, url)], self.progress)
            else:
                has_pip = any(artifact.package.name == "pip" for artifact in self.plan.conda)
                old = self.before.prefix if self.before else ""
                command = editable_command(self.request.prefix, url, old, has_pip=has_pip)
                removed = f"the environment is created again, which removes {shown}, which is not locked"
                self.progress.note(f"{removed}; to install it again, run `{command}`")

    def _empties(self, todo: Changes) -> bool:
        """Return whether the prefix is emptied first: envforge created it, and no package of it is kept."""
        return _is_created(self.before, self.request.prefix) and not todo.conda_kept and not todo.venv_kept

    def _begin(self, todo: Changes) -> Journal:
        """Write the journal before the prefix changes; empty the prefix if all packages are linked again."""
        prefix = self.request.prefix
        # the records of an incomplete environment don't tell what belongs to packages
        if self._empties(todo) and self.before is not None and self.before.step == "verified":
            set_aside(prefix)
        journal = Journal(
            step="planned",
            fingerprint=self.plan.fingerprint,
            lockfile=os.path.abspath(self.request.lockfile),  # noqa: PTH100 - keep symbolic links
            platform=self.plan.platform,
            created=_is_created(self.before, self.request.prefix),
            conda=self.plan.records,
            wheels=self.plan.wheel_names,
            prefix=str(prefix),
            categories=self.request.categories,
            variables=self.lockfile.variables,
            adopted=self.before is not None and self.before.adopted and not self._empties(todo),
        )
        write_journal(prefix, journal)
        keep_lockfile(self.request.lockfile, prefix)
        if self._empties(todo):
            for path in prefix.iterdir():
                if path.name == ENVFORGE_DIRECTORY:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return journal

    def _report(self, outcome: Outcome, todo: Changes, downloaded_bytes: int) -> InstallReport:
        done = (*todo.conda, *todo.wheels)
        return InstallReport(
            prefix=self.request.prefix,
            lockfile=self.request.lockfile,
            platform=self.plan.platform,
            outcome=outcome,
            linked=tuple(artifact.label for artifact in done),
            removed=(*todo.conda_removed, *todo.wheels_removed),
            unchanged=len(self.plan.conda) + len(self.plan.wheels) - len(done),
            downloaded_bytes=downloaded_bytes,
            warnings=self.plan.warnings,
            scripts=() if self.request.run_scripts else _scripts(self.request.prefix, todo),
        )


def _scripts(prefix: Path, todo: Changes) -> tuple[str, ...]:
    """Return the packages whose link scripts were not run."""
    places = (("bin", "sh"), ("Scripts", "bat"))
    found = {path.name for folder, end in places for path in (prefix / folder).glob(f".*-link.{end}")}
    names = (artifact.package.name for artifact in todo.conda)
    return tuple(
        name for name in names if any(f".{name}-{kind}.{end}" in found for _, end in places for kind in _SCRIPTS)
    )
