"""Run the steps that change a prefix (compare, fetch, link, install wheels), and record each in the journal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name
from rattler import PrefixRecord

from envforge.errors import EnvforgeError, Hint
from envforge.install.build import build_wheels
from envforge.install.cached import Reader
from envforge.install.early import Early, split_python
from envforge.install.fetch import Fetched, fetch_all
from envforge.install.journal import FOLDER, Journal, write_journal, write_whole
from envforge.install.link import Archive, link, read_archives, read_records
from envforge.install.needs import asks_driver, concerns, describe, read_needs, unmet
from envforge.install.plan import Changes, Plan, changes, wheel_of
from envforge.install.site import pip_installed
from envforge.install.space import check_room
from envforge.install.store import Store, default_root
from envforge.install.values import (
    InstallReport,
    InstallRequest,
    Outcome,
    PlannedFile,
    Preview,
    Progress,
    Silent,
    Step,
)
from envforge.install.wheels import Batch, Site, find_site, install_wheels, stand_alone, uninstall, verify_wheels
from envforge.machine import Machine
from envforge.matrix import Matrix, load_matrix

_SCRIPTS = ("post-link", "pre-link")


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """One install into a locked prefix. ``before`` is the journal of the existing prefix.

    The requirements are compared with ``machine``; if it is None, they aren't checked.
    """

    request: InstallRequest
    plan: Plan
    progress: Progress
    before: Journal | None
    reader: Reader
    machine: Callable[[], Machine] | None

    def run(self) -> InstallReport:
        """Run every step; if one fails before the journal records ``planned``, the prefix is unchanged."""
        self._check_machine()
        store = Store((self.request.cache or default_root()).absolute())
        todo = self._changes()
        fetched = fetch_all((*todo.conda, *todo.wheels), store, self.request, self.progress, self.reader)
        check_room(fetched, self.request.prefix, store)
        archives = read_archives(fetched[: len(todo.conda)], store, reread=self.request.reread)
        wheels = fetched[len(todo.conda) :]
        journal = self._begin(todo)
        if "python" in todo.conda_kept:  # first, because the new conda packages may contain the same libraries
            self._uninstall(todo, store)
        batch = self._conda(todo, archives, wheels, store)
        self._reached(journal, "conda done")
        self._wheels(todo, wheels, store, batch)
        self._reached(journal, "wheels done")
        self._reached(journal, "verified")
        return self._report(self._outcome(journal), todo, fetched)

    def preview(self) -> Preview:
        """Return what ``run`` would do, without writing anything; the network is used only for file sizes."""
        self._check_machine()
        todo = self._changes()
        artifacts = (*todo.conda, *todo.wheels)
        cached = {artifact for artifact in artifacts if self.reader.digest(artifact) == artifact.digest}
        sizes = {artifact: self.reader.store.path(artifact).stat().st_size for artifact in cached}
        missing = tuple(artifact for artifact in artifacts if artifact not in cached)
        if missing:
            from envforge.install.downloads import sizes_of  # noqa: PLC0415 - imports an HTTP client

            sizes |= sizes_of(missing, self.request, self.progress)
        return Preview(
            prefix=self.request.prefix,
            lockfile=self.request.lockfile,
            platform=self.plan.platform,
            files=tuple(
                PlannedFile(label=artifact.label, is_cached=artifact in cached, bytes=sizes.get(artifact))
                for artifact in artifacts
            ),
            removed=(*todo.conda_removed, *todo.wheels_removed),
            unchanged=len(self.plan.conda) + len(self.plan.wheels) - len(artifacts),
            warnings=self.plan.warnings,
        )

    def _check_machine(self) -> None:
        """Raise ``EnvforgeError`` if the machine doesn't meet the requirements, before anything is downloaded."""
        if self.machine is None:
            return
        matrix = load_matrix() if asks_driver(self.plan) else Matrix.without_builds()
        machine = self.machine()
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

    def _conda(
        self, todo: Changes, archives: tuple[Archive, ...], wheels: tuple[Fetched, ...], store: Store
    ) -> Batch | None:
        """Link the conda packages, and return the wheels if they could be installed at the same time."""
        if not archives and not todo.conda_removed:
            return None
        self.progress.begin("linking", len(archives), "packages")
        try:
            if not self._halves_are_apart(todo, wheels):
                link(archives, todo.conda_removed, store, self.request, self.progress)
                return None
            python, rest = split_python(archives)
            link(python, (), store, self.request, self.progress)
            batch = self._batch(wheels, find_site(self.request.prefix, self.plan.platform), store)
            with Early(lambda: install_wheels(replace(batch, progress=Silent()))) as early:
                link(rest, (), store, self.request, self.progress)
        finally:
            self.progress.end()
        return batch if early.succeeded() and stand_alone(batch) else None

    def _halves_are_apart(self, todo: Changes, wheels: tuple[Fetched, ...]) -> bool:
        """Return whether wheels may be installed while conda packages are linked: a new prefix and no common name."""
        # linking uses one core and uv another; they may overlap only if it can't matter which of them writes a file
        # last
        conda = {canonicalize_name(artifact.package.name) for artifact in todo.conda}
        return (
            bool(wheels)
            and "python" in conda
            and self._created()
            and not todo.conda_kept
            and not self.request.run_scripts
            and not any(item.artifact.is_source or wheel_of(item.artifact).name in conda for item in wheels)
        )

    def _batch(self, wheels: tuple[Fetched, ...], site: Site, store: Store) -> Batch:
        return Batch(wheels=wheels, site=site, store=store, progress=self.progress, reread=self.request.reread)

    def _wheels(self, todo: Changes, wheels: tuple[Fetched, ...], store: Store, batch: Batch | None) -> None:
        """Install the wheels unless ``batch`` contains installed ones, and verify their files."""
        if not wheels and not todo.wheels_removed:
            return
        if batch is None:
            site = find_site(self.request.prefix, self.plan.platform)
            ready = build_wheels(wheels, site, store, offline=self.request.offline, progress=self.progress)
            if "python" not in todo.conda_kept:
                self._uninstall(todo, store)
            batch = self._batch(tuple(ready), site, store)
            install_wheels(batch)
        verify_wheels(batch)

    def _uninstall(self, todo: Changes, store: Store) -> None:
        if todo.wheels_removed:
            uninstall(todo.wheels_removed, find_site(self.request.prefix, self.plan.platform), store)

    def _changes(self) -> Changes:
        """Return what must change, given what the prefix can be trusted to contain."""
        everything = changes(self.plan, None, {}, frozenset())
        # an environment that envforge began is emptied and linked again, which takes seconds with a cache and leaves
        # nothing half-linked; in a directory taken with `--force`, files of no package are kept
        if self._created() and not self._conda_half_stands():
            return everything
        prefix = self.request.prefix
        installed = {record.name.normalized: record for record in read_records(prefix)}
        if self._created() and _minor(self._locked_python()) != _minor(_version(installed.get("python"))):
            return everything
        stands = self.before is None or self._conda_half_stands()
        conda = {name: _checksums(record) if stands else frozenset() for name, record in installed.items()}
        trusted = self.before if self.before is not None and self.before.step == "verified" else None
        return changes(self.plan, trusted, conda, pip_installed(prefix), self.request.reinstall)

    def _conda_half_stands(self) -> bool:
        """Return whether the journal shows that the conda packages are intact, those of this lockfile or of any."""
        if self.before is None or self.before.step == "planned":
            return False
        return self.before.step == "verified" or self.before.fingerprint == self.plan.fingerprint

    def _locked_python(self) -> str | None:
        return next((a.package.version for a in self.plan.conda if a.package.name == "python"), None)

    def _created(self) -> bool:
        """Return whether the prefix belongs to envforge: it created the prefix, or the prefix is new or empty."""
        if self.before is not None:
            return self.before.created
        prefix = self.request.prefix
        return not prefix.exists() or all(path.name == FOLDER for path in prefix.iterdir())

    def _begin(self, todo: Changes) -> Journal:
        """Write the journal before the prefix changes; empty the prefix if all packages are linked again."""
        prefix = self.request.prefix
        journal = Journal(
            step="planned",
            fingerprint=self.plan.fingerprint,
            lockfile=os.path.abspath(self.request.lockfile),  # noqa: PTH100 - keep symbolic links
            platform=self.plan.platform,
            created=self._created(),
            conda=self.plan.records,
            wheels=self.plan.wheel_names,
        )
        write_journal(prefix, journal)
        write_whole(prefix / FOLDER / "conda-lock.yml", self.request.lockfile.read_bytes())
        if journal.created and not todo.conda_kept:
            for path in prefix.iterdir():
                if path.name == FOLDER:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return journal

    def _reached(self, journal: Journal, step: Step) -> None:
        write_journal(self.request.prefix, journal.at(step))

    def _report(self, outcome: Outcome, todo: Changes, fetched: tuple[Fetched, ...]) -> InstallReport:
        done = (*todo.conda, *todo.wheels)
        return InstallReport(
            prefix=self.request.prefix,
            lockfile=self.request.lockfile,
            platform=self.plan.platform,
            outcome=outcome,
            linked=tuple(artifact.label for artifact in done),
            removed=(*todo.conda_removed, *todo.wheels_removed),
            unchanged=len(self.plan.conda) + len(self.plan.wheels) - len(done),
            downloaded_bytes=sum(item.downloaded_bytes for item in fetched),
            warnings=self.plan.warnings,
            scripts=() if self.request.run_scripts else _scripts(self.request.prefix, todo),
        )


def _checksums(record: PrefixRecord) -> frozenset[str]:
    """Return the checksums that a lockfile may state for a linked archive."""
    return frozenset(digest.hex() for digest in (record.sha256, record.md5) if digest)


def _version(record: PrefixRecord | None) -> str | None:
    return None if record is None else str(record.version)


def _minor(version: str | None) -> tuple[str, ...]:
    return tuple((version or "").split(".")[:2])


def _scripts(prefix: Path, todo: Changes) -> tuple[str, ...]:
    """Return the packages whose link scripts were not run."""
    places = (("bin", "sh"), ("Scripts", "bat"))
    found = {path.name for folder, end in places for path in (prefix / folder).glob(f".*-link.{end}")}
    names = (artifact.package.name for artifact in todo.conda)
    return tuple(
        name for name in names if any(f".{name}-{kind}.{end}" in found for _, end in places for kind in _SCRIPTS)
    )
