"""Run conda-lock against the lock-time index, insert public URLs and checked hashes, and check the result.

Nothing is written here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.urls import show_url, without_user
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError
from envforge.lock import condalock
from envforge.lock import lockfile as document
from envforge.lock.check import Expectations, audit
from envforge.lock.condalock import Job
from envforge.lock.index import LockTimeIndex, Offer, PlatformIndex, Wanted
from envforge.lock.inputs import Inputs, VirtualPackages, refuse_credentials, virtual_packages_of
from envforge.lock.lockfile import Frame, Lockfile, Resolved, parse_lockfile
from envforge.lock.names import NameMapping, Sources, is_torch_family, torch_indexes
from envforge.lock.pages import Downloads
from envforge.lock.previous_lock import Keeping, Old, list_changes, read_solve
from envforge.lock.python_index import PythonIndex, configured_index, extra_indexes
from envforge.lock.reasons import with_reasons
from envforge.lock.request import LockReport, LockRequest, PlatformSummary, Progress, Step
from envforge.lock.solver import executable


def _registry(stated: str | None) -> PythonIndex:
    """Return the package index of the request, or else the one that uv or pip is configured for."""
    if stated is not None:
        return PythonIndex(simple_url=stated, source="the request")
    return configured_index(os.environ, Path.home(), Path(sys.prefix))


def _is_served(index: PythonIndex) -> bool:
    return index.simple_url.startswith(("https://", "http://"))


@dataclass
class Run:
    """One run. ``folder`` is its private directory; ``known`` has the SHA-256 of the old lockfile's files by URL."""

    request: LockRequest
    inputs: Inputs
    keeping: Keeping
    folder: Path
    progress: Progress
    known: Mapping[str, str]
    mapping: NameMapping = field(default_factory=NameMapping.bundled)
    hashed: dict[str, str] = field(default_factory=dict)

    def run(self, started: float, old: Old | None) -> tuple[LockReport, str]:
        """Return the report and the text of the lockfile; raise ``EnvforgeError`` if there is no solution."""
        virtual = virtual_packages_of(self.inputs)
        downloads = Downloads(self.request.mirrors, self.progress)
        indexes = {platform: self._index(platform, virtual, downloads) for platform in self.inputs.platforms}
        with LockTimeIndex(indexes) as server:
            jobs = self._jobs(server)
            self.progress(Step(text=f"solving for {', '.join(self.inputs.platforms)}"))
            warnings = self._solve(server, jobs, virtual, indexes)
            channels, rows = self._rows(jobs, server, downloads)
        text = document.render_lockfile(self._frame(jobs, channels), rows, self.request.lockfile.name)
        lock = parse_lockfile(text, str(self.request.lockfile))
        self._audit(lock, text, indexes)
        sizes = self._sizes(lock, indexes, downloads)
        report = self._report(lock, virtual, sizes, time.monotonic() - started)
        report = replace(report, warnings=(*warnings, *self._warnings(indexes.values()), *self._undated(lock, indexes)))
        return replace(report, changes=list_changes(old.lock if old else None, lock)), text

    def _index(self, platform: str, virtual: VirtualPackages, downloads: Downloads) -> PlatformIndex:
        pip = self.inputs.pip_for(platform)
        repositories = self.inputs.pip_repositories
        torch = torch_indexes(repositories)
        family = frozenset(canonicalize_name(r.name) for r in pip if is_torch_family(r.name, str(r.specifier)))
        other = tuple(url for url in repositories if url not in torch)
        registry = None
        if self.inputs.allow_registry and any(canonicalize_name(r.name) not in family and not r.url for r in pip):
            registry = _registry(self.request.python_index)
            extra = tuple(index.simple_url for index in self.extra if _is_served(index))
            other = tuple(dict.fromkeys((*other, *extra, registry.simple_url)))
            torch = torch or torch_indexes(extra)
        records = self.folder / platform / "records"
        return PlatformIndex(
            wanted=Wanted(
                platform=platform, pip=pip, virtual=virtual.of(platform), records=records, cutoff=self.keeping.cutoff
            ),
            sources=Sources(torch=torch or repositories, other=other, family=family, registry=registry),
            downloads=downloads,
            mapping=self.mapping,
        )

    @cached_property
    def extra(self) -> tuple[PythonIndex, ...]:
        """The further indexes that uv and pip are configured for, unless the request names the only one."""
        is_configured = self.inputs.allow_registry and self.request.python_index is None
        return extra_indexes(os.environ, Path.home(), Path(sys.prefix)) if is_configured else ()

    def _jobs(self, server: LockTimeIndex) -> list[Job]:
        tools = self.folder / "bin"
        tools.mkdir()
        conda = self._conda(tools)
        return [
            Job(
                platform=platform,
                folder=self.folder / platform,
                conda=conda,
                mirrors=self.request.mirrors,
                index=server.simple(platform),
                wishes=self.keeping.wishes(platform),
                seed=self.keeping.seed(platform, self.inputs),
            )
            for platform in self.inputs.platforms
        ]

    def _conda(self, tools: Path) -> Path:
        stated = self.request.conda_exe
        if stated is None:
            launcher = executable(tools)
        else:
            found = shutil.which(str(stated))
            if found is None:
                raise RequestError(
                    f"`{stated}` is not an executable file",
                    hint="to use the embedded solver, omit `--conda-exe` and unset `ENVFORGE_CONDA_EXE`",
                    code="no-conda-exe",
                )
            launcher = condalock.write_launcher(tools, Path(found).absolute())
        if not os.access(launcher, os.X_OK):
            folder = self.folder.parent
            raise OutsideError(
                f"cannot run programs in the temporary directory `{folder}`: it is mounted with `noexec`",
                hint="to use another directory for temporary files, set `TMPDIR=DIR`",
                code="noexec-tmp",
            )
        return launcher

    def _solve(
        self, server: LockTimeIndex, jobs: list[Job], virtual: VirtualPackages, indexes: Mapping[str, PlatformIndex]
    ) -> tuple[str, ...]:
        """Run conda-lock until every marker is evaluated for the version of Python that it selects."""
        warnings = self._solve_keeping(server, jobs, virtual, indexes)
        undecided = [job for job in jobs if self.inputs.is_undecided(job.platform)]
        if undecided:
            self.progress(Step(text="solving again: markers depend on the version of Python"))
            again = [replace(job, python=self._python(job)) for job in undecided]
            warnings += self._solve_keeping(server, again, virtual, indexes)
        return tuple(dict.fromkeys(warnings))

    def _python(self, job: Job) -> Version | None:
        solve = read_solve(job.records)
        return solve.python if solve else None

    def _solve_keeping(
        self, server: LockTimeIndex, jobs: list[Job], virtual: VirtualPackages, indexes: Mapping[str, PlatformIndex]
    ) -> tuple[str, ...]:
        try:
            return condalock.run_conda_lock(self.inputs, virtual.text(), jobs)
        except EnvforgeError as error:
            if server.fault is not None:
                raise server.fault from error
            # only if the conda packages are solved can the locked wheels be the cause
            if not any(job.seed is not None and read_solve(job.records) is not None for job in jobs):
                raise with_reasons(error, self.request, self.inputs, indexes) from error
        self.progress(Step(text="solving again: the locked wheels conflict with the requirements"))
        return self._solve_keeping(server, [replace(job, seed=None) for job in jobs], virtual, indexes)

    def _rows(
        self, jobs: Sequence[Job], server: LockTimeIndex, downloads: Downloads
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        channels: list[Any] = []
        rows: list[dict[str, Any]] = []
        for job in jobs:
            channels, found = document.load_documents(job.output)
            rows += document.with_public_addresses(found, lambda url: self._resolve(url, server, downloads))
        return channels, rows

    def _resolve(self, url: str, server: LockTimeIndex, downloads: Downloads) -> Resolved | None:
        offer = server.offer(url)
        if offer is None:  # a conda package, or a direct URL under `pip:`
            return None
        file, before = offer.file, self.known.get(offer.file.url)
        # a stated hash is trusted here, because a CUDA build is 3 GB; `install` verifies the bytes (decision 0041)
        if file.url not in self.hashed and (self.request.verify_hashes or (file.sha256 or before) is None):
            self.hashed[file.url] = downloads.sha256(file)
        sha256 = self._sha256(offer)
        if before and before != sha256:
            raise EnvforgeError(
                f"`{show_url(file.url)}` has changed: expected SHA-256 `{before}` (`{self.request.lockfile}`), "
                f"found `{sha256}` (package index)",
                hint=self._trust_change(),
                code="hash-changed",
            )
        return Resolved(url=file.url, sha256=sha256)

    def _trust_change(self) -> tuple[Hint, ...]:
        again = self.request.command("lock", "--verify-hashes")
        if not again:
            return ()
        remove = shlex.join(["rm", str(self.request.lockfile)])
        return (Hint("if you trust the new file, to lock again from scratch", f"{remove} && {again}"),)

    def _sha256(self, offer: Offer) -> str:
        """Return the SHA-256 of the downloaded bytes, or else of the index, or else of the old lockfile."""
        url = offer.file.url
        return self.hashed.get(url) or offer.file.sha256 or self.known.get(url) or ""

    def _frame(self, jobs: list[Job], channels: list[Any]) -> Frame:
        folder = self.request.lockfile.resolve().parent
        return Frame(
            content_hash=condalock.hashes_of(jobs),
            channels=channels,
            platforms=self.inputs.platforms,
            sources=tuple(Path(os.path.relpath(file.path.resolve(), folder)).as_posix() for file in self.inputs.files),
            custom={
                document.INPUT_SHA256: self.inputs.sha256,
                document.EXCLUDE_NEWER: "" if self.keeping.cutoff.at is None else str(self.keeping.cutoff),
                document.VARIABLES: document.variables_text(self.inputs.variables),
                document.CATEGORIES: ",".join(self.inputs.categories),
            },
        )

    def _audit(self, lock: Lockfile, text: str, indexes: Mapping[str, PlatformIndex]) -> None:
        """Raise ``EnvforgeError`` if the lockfile is invalid, or isn't what the environment files request."""
        refuse_credentials(str(self.request.lockfile), text.splitlines())
        offers = [offer for index in indexes.values() for offer in index.offers.values()]
        direct = [r.url for p in self.inputs.platforms for r in self.inputs.pip_for(p) if r.url]
        expected = Expectations(
            digests={
                **{offer.file.url: self._sha256(offer) for offer in offers},
                **{url.split("#", 1)[0]: url.rpartition("#sha256=")[2] for url in direct},
            },
            torch_urls=frozenset(o.file.url for o in offers if o.index in _addresses(indexes)),
            family=frozenset(o.name for o in offers if is_torch_family(o.name)),
            optional={name: names for index in indexes.values() for name, names in index.optional.items()},
            asked=(*self.inputs.channels, *self.inputs.pip_repositories, *_other_addresses(indexes), *direct),
        )
        problems = audit(lock, self.inputs, expected, self.mapping)
        if problems:
            lines = "\n".join(f"- {problem.message}" for problem in problems)
            # a version that was kept can conflict with a new request
            is_kept = self.keeping.old is not None and any(problem.code in _OF_REQUESTS for problem in problems)
            raise EnvforgeError(
                f"the new lockfile is invalid and was not written:\n{lines}",
                hint="to select all versions again" if is_kept else "",
                command=self.request.command("lock", "--upgrade") if is_kept else "",
                code=problems[0].code,
            )

    def _sizes(self, lock: Lockfile, indexes: Mapping[str, PlatformIndex], downloads: Downloads) -> dict[str, int]:
        """Return the size in bytes of each file whose index or server states it, by URL."""
        sizes = {o.file.url: o.file.size for index in indexes.values() for o in index.offers.values() if o.file.size}
        for index in indexes.values():
            sizes.update({package.url: package.size for package in index.solve.packages if package.size})
        missing = [package.url for package in lock.packages if package.url not in sizes]
        missing = [url for url in missing if url.startswith(("https://", "http://"))]
        if missing:
            self.progress(Step(text="reading the sizes of wheels"))
            sizes.update(downloads.sizes(missing))
        return sizes

    def _report(self, lock: Lockfile, virtual: VirtualPackages, sizes: Mapping[str, int], seconds: float) -> LockReport:
        return LockReport(
            lockfile=self.request.lockfile,
            lock=lock,
            platforms=tuple(summary(lock, platform, sizes) for platform in self.inputs.platforms),
            virtual_packages=virtual.words(),
            virtual_packages_source=virtual.source,
            hashed=tuple(self.hashed),
            warnings=(),
            seconds=seconds,
            exclude_newer=self.keeping.cutoff,
        )

    def _warnings(self, indexes: Iterable[PlatformIndex]) -> Iterator[str]:
        for index in self.extra if any(one.sources.registry for one in indexes) else ():
            if not _is_served(index):
                yield (
                    f"the package index `{index.public_url}` (configured in {index.source}) is not used, because other "
                    "machines can't reach it"
                )
        for category, names in self.inputs.left_out.items():
            yield f"category `{category}` is left out: {', '.join(dict.fromkeys(names))}"
        for entry in self.inputs.unused():
            yield f"{entry.line}: `{entry.text}` applies to none of the platforms {', '.join(self.inputs.platforms)}"
        if self.request.conda_exe is None:
            return
        name = self.request.conda_exe.name
        if self.request.mirrors.rules:
            yield f"`{name}` ignores `--mirror` and `ENVFORGE_MIRRORS`; set up mirrors in its own configuration"
        if self.keeping.old is not None:
            yield f"`{name}` selected all conda packages again; only the embedded solver keeps locked versions"

    def _undated(self, lock: Lockfile, indexes: Mapping[str, PlatformIndex]) -> Iterator[str]:
        """Return a warning for packages without a known date if there is a cutoff."""
        if self.keeping.cutoff.at is None:
            return
        dated = {offer.file.url for index in indexes.values() for offer in index.offers.values() if offer.file.uploaded}
        dated |= {package.url for index in indexes.values() for package in index.solve.packages if package.timestamp}
        names = sorted({package.name for package in lock.packages if package.url not in dated})
        if names:
            yield f"no date is known for {', '.join(names)}; they may be newer than {self.keeping.cutoff}"


def _addresses(indexes: Mapping[str, PlatformIndex]) -> set[str]:
    return {without_user(url) for index in indexes.values() for url in index.sources.torch}


def _other_addresses(indexes: Mapping[str, PlatformIndex]) -> tuple[str, ...]:
    return tuple({url for index in indexes.values() for url in index.sources.other})


_OF_REQUESTS = {"not-locked", "other-version", "not-requested"}


def summary(lock: Lockfile, platform: str, sizes: Mapping[str, int]) -> PlatformSummary:
    """Count the packages of one platform and their bytes; ``sizes`` is by URL."""
    packages = lock.for_platform(platform)
    known = [sizes[package.url] for package in packages if package.url in sizes]
    return PlatformSummary(
        platform=platform,
        conda=len(lock.for_platform(platform, "conda")),
        pip=len(lock.for_platform(platform, "pip")),
        torch=next((p.version for p in packages if p.name == "torch"), None),
        bytes=sum(known),
        sized=len(known),
        unsized=tuple(package.name for package in packages if package.url not in sizes),
    )
