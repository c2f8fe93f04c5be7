"""Change a prefix step by step, under a journal.

Wheels are installed while conda packages are linked, if that can't matter. If this early attempt fails, or a conda
package contains the same library, they are installed after the conda packages.
"""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.utils import canonicalize_name

from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, Hint
from envforge.lock.lockfile import Lockfile
from envforge.lock.plan import Artifact, Plan, wheel_of
from envforge.prefix.cache import Store
from envforge.prefix.conda_history import record_install, requested_specs
from envforge.prefix.conda_packages import Archive, check_linkable, link, read_records, site_packages_path
from envforge.prefix.fetch import Fetched, check_room_to_copy
from envforge.prefix.installed import editable_installs
from envforge.prefix.journal import Journal, empty_prefix, keep_lockfile, write_journal
from envforge.prefix.links import Joined
from envforge.prefix.obtain import Obtained, obtain
from envforge.prefix.own_files import editable_command, note_editables, put_back, set_aside
from envforge.prefix.values import (
    Changes,
    InstallProgress,
    InstallReport,
    InstallRequest,
    Outcome,
    Silent,
    progress_step,
)
from envforge.prefix.venv import create_venv, find_interpreter
from envforge.prefix.wheels import (
    Batch,
    Site,
    build_wheels,
    check_places,
    find_site,
    folders_of,
    install_wheels,
    stand_alone,
    uninstall,
    verify_wheels,
)


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


class Installation(Struct, frozen=True, kw_only=True):
    """The changes of a locked prefix, whose journal was ``before``.

    ``is_created``: the prefix belongs to envforge, which created it, or it is new or empty.
    """

    request: InstallRequest
    lockfile: Lockfile
    plan: Plan
    progress: InstallProgress
    before: Journal | None
    store: Store
    todo: Changes
    is_created: bool
    # what was only needed to unpack packages is removed while packages are linked
    removals: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="remove"))

    def run(self) -> InstallReport:
        """Run every step; if one fails before the journal records ``planned``, the prefix is unchanged."""
        request, store, todo = self.request, self.store, self.todo
        self._refuse_other_venv()
        # before the prefix changes, because the machine may lack this Python
        interpreter = find_interpreter(self.plan.python) if self.plan.python and not todo.venv_kept else ""
        # everything is in the cache and checked before the prefix changes, so a failed download leaves it as it was
        obtained = self._obtain((*todo.conda, *todo.wheels))
        check_room_to_copy(map(store.unpacked, (*todo.conda, *todo.wheels)), request.prefix, store)
        self._check_joined(obtained)
        self._note_editables()
        journal = self._begin()
        try:
            self._change(obtained, journal, interpreter)
        except EnvforgeError as error:
            again = journal.again(
                shlex.join(["envforge", "install", journal.lockfile, "--prefix", str(request.prefix)])
            )
            incomplete = f"`{request.prefix}` is incomplete; to complete it once the cause is fixed"
            error.hints = (*error.hints, Hint(incomplete, again))
            raise
        return self._report(obtained.downloaded_bytes)

    def _change(self, obtained: Obtained, journal: Journal, interpreter: str) -> None:
        """Change the prefix; the journal records each step."""
        request = self.request
        if "python" in self.todo.conda_kept:  # first, because the new conda packages may contain the same libraries
            self._uninstall()
        if interpreter:
            create_venv(request.prefix, interpreter)
        specs = requested_specs(self.lockfile, request.lockfile, self.plan)
        batch = self._conda(obtained, specs)
        # from here on, a run that completes the install keeps the conda packages
        write_journal(request.prefix, journal.at("conda done"))
        self._wheels(obtained, batch)
        record_install(request.prefix, self.plan, specs, linked=self.todo.conda)
        put_back(request.prefix, self.progress)  # before the journal says that nothing is left to do
        write_journal(request.prefix, journal.at("verified"))

    def _obtain(self, artifacts: tuple[Artifact, ...]) -> Obtained:
        self.removals.submit(bool).result()  # a file that is brought again must not be removed
        python = next(
            (a.package.version for a in self.plan.conda if a.package.name == "python"), self.plan.python or ""
        )
        minor = ".".join(str(python).split(".")[:2])
        return obtain(artifacts, self.store, self.request, self.progress, minor, self.removals)

    def _refuse_other_venv(self) -> None:
        """Raise ``EnvforgeError`` for a directory taken with ``--force`` that has no Python of the lockfile."""
        if self.plan.python is not None and not self.todo.venv_kept and not self.is_created:
            raise EnvforgeError(
                f"`{self.request.prefix}` is not a virtual environment of Python {self.plan.python}, which "
                f"`{self.request.lockfile}` requires",
                hint="to create a virtual environment, pass `--prefix DIR` with a new directory",
                code="prefix-foreign",
            )

    def _outcome(self) -> Outcome:
        if self.before is None:
            return "installed" if self.is_created else "updated"
        return "updated" if self.before.step == "verified" else "completed"

    def _conda(self, obtained: Obtained, specs: Mapping[str, str]) -> Batch | None:
        """Link the conda packages, and return the wheels if they could be installed at the same time."""
        archives, store, todo = obtained.conda, self.store, self.todo
        if not archives and not todo.conda_removed:
            return None
        with progress_step(self.progress, "linking", len(archives), "packages"):
            if not self._halves_are_apart(obtained.wheels):
                link(archives, todo.conda_removed, specs, store, self.request, self.progress)
                return None
            # uv installs wheels with the Python of the prefix, so that comes first
            python, rest = split_python(archives)
            link(python, (), specs, store, self.request, self.progress)
            batch = self._batch(obtained.wheels, find_site(self.request.prefix, self.plan.platform), obtained)
            with ThreadPoolExecutor(1, thread_name_prefix="wheels") as pool:
                # silent, because a progress display shows one step at a time
                early = pool.submit(install_wheels, replace(batch, progress=Silent()))
                link(rest, (), specs, store, self.request, self.progress)
        try:
            early.result()
        except EnvforgeError:  # the second attempt, after all conda packages, reports it
            return None
        return batch if stand_alone(batch) else None

    def _halves_are_apart(self, wheels: tuple[Fetched, ...]) -> bool:
        """Return whether wheels may be installed while conda packages are linked: a new prefix and no common name."""
        # linking uses one core and uv another; they may overlap only if it can't matter which of them writes a file
        # last
        conda = {canonicalize_name(artifact.package.name) for artifact in self.todo.conda}
        return (
            bool(wheels)
            and "python" in conda
            and self._empties
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

    def _wheels(self, obtained: Obtained, batch: Batch | None) -> None:
        """Install the wheels unless ``batch`` contains installed ones, and verify their files."""
        if not obtained.wheels and not self.todo.wheels_removed:
            return
        if batch is None:
            site, store = find_site(self.request.prefix, self.plan.platform), self.store
            ready = build_wheels(obtained.wheels, site, store, offline=self.request.offline, progress=self.progress)
            if "python" not in self.todo.conda_kept:
                self._uninstall()
            batch = self._batch(tuple(ready), site, obtained)
            install_wheels(batch)
        verify_wheels(batch)

    def _uninstall(self) -> None:
        gone = (*self.todo.wheels_removed, *self.todo.wheels_replaced)
        if gone:
            uninstall(gone, find_site(self.request.prefix, self.plan.platform), self.store)

    def _check_joined(self, obtained: Obtained) -> None:
        """Raise ``EnvforgeError`` if packages write outside the prefix through links; report common files."""
        archives = obtained.conda
        if not archives:
            return
        emptied = self._empties
        present = () if emptied else read_records(self.request.prefix)
        gone = {*self.todo.conda_removed, *(archive.record.name.normalized for archive in archives)}
        records = tuple(record for record in present if record.name.normalized not in gone)
        every = [*records, *(archive.record for archive in archives)]
        python = next((record for record in reversed(every) if record.name.normalized == "python"), None)
        check_linkable(archives, self.request.prefix, self.plan.platform, python)
        site_packages = site_packages_path(python, self.plan.platform) if python else "site-packages"
        # uv writes wheels while conda packages are linked, so the links on the disk show only later where files arrive
        site = Site(prefix=Path(), packages=Path(site_packages), program=Path("bin/python"))
        wheels = tuple(item for item in obtained.wheels if not item.artifact.is_source)
        joined = Joined(
            archives=archives,
            site_packages=site_packages,
            prefix=None if emptied else self.request.prefix,
            kept=records,
            made=frozenset(folder for item in wheels for folder in folders_of(item, site, self.store)),
            removed=frozenset(
                path.as_posix() for record in present if record.name.normalized in gone for path in record.files
            ).difference(path.as_posix() for record in records for path in record.files),
        )
        joined.check()
        check_places(wheels, site, self.store, joined.resolve)
        for warning in joined.shared():
            self.progress.note(f"warning: {warning}")

    def _note_editables(self) -> None:
        locked = {wheel_of(artifact).name for artifact in self.plan.wheels}
        for name, url in editable_installs(self.request.prefix).items():
            if ("pip", name) in self.request.reinstall:
                continue
            shown = f"the editable install of `{name}` (`{show_url(url)}`)"
            if name in locked:
                self.progress.note(f"the locked wheel of `{name}` replaces {shown}")
            elif not self._empties:
                note_editables([(name, url)], self.progress)
            else:
                has_pip = any(artifact.package.name == "pip" for artifact in self.plan.conda)
                old = self.before.prefix if self.before else ""
                command = editable_command(self.request.prefix, url, old, has_pip=has_pip)
                removed = f"the environment is created again, which removes {shown}, which is not locked"
                self.progress.note(f"{removed}; to install it again, run `{command}`")

    @property
    def _empties(self) -> bool:
        """Whether the prefix is emptied first: envforge created it, and no package of it is kept."""
        return self.is_created and not self.todo.conda_kept and not self.todo.venv_kept

    def _begin(self) -> Journal:
        """Write the journal before the prefix changes; empty the prefix if all packages are linked again."""
        prefix = self.request.prefix
        # the records of an incomplete environment don't tell what belongs to packages
        if self._empties and self.before is not None and self.before.step == "verified":
            set_aside(prefix)
        journal = Journal(
            step="planned",
            fingerprint=self.plan.fingerprint,
            lockfile=os.path.abspath(self.request.lockfile),  # noqa: PTH100 - keep symbolic links
            platform=self.plan.platform,
            created=self.is_created,
            conda=self.plan.records,
            wheels=self.plan.wheel_names,
            prefix=str(prefix),
            categories=self.request.categories,
            variables=self.lockfile.variables,
            adopted=self.before is not None and self.before.adopted and not self._empties,
        )
        write_journal(prefix, journal)
        # `audit` compares with this copy, because the project's lockfile may change or move
        keep_lockfile(self.request.lockfile, prefix)
        if self._empties:
            empty_prefix(prefix)
        return journal

    def _report(self, downloaded_bytes: int) -> InstallReport:
        todo = self.todo
        done = (*todo.conda, *todo.wheels)
        return InstallReport(
            prefix=self.request.prefix,
            lockfile=self.request.lockfile,
            platform=self.plan.platform,
            outcome=self._outcome(),
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
