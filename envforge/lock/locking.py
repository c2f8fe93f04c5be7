"""Lock an environment, or change it and lock it, in one transaction.

A lockfile that is up to date is left unchanged; otherwise locked versions are kept if possible.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from msgspec import Struct, field
from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.documents import load_yaml
from envforge.base.files import exclusive_lock, regular, workshop, write_atomic
from envforge.base.suggest import nearest
from envforge.base.urls import show_url, without_user
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError
from envforge.lock import condalock
from envforge.lock import lockfile as document
from envforge.lock.check import Expectations, audit, check_inputs
from envforge.lock.condalock import LockJob, read_solve
from envforge.lock.diff import list_changes
from envforge.lock.edit import Edit
from envforge.lock.index import UNKNOWN_SHA256, LockTimeIndex, Offer, PlatformIndex, Sources, Wanted
from envforge.lock.inputs import Inputs, VirtualPackages, read_inputs, refuse_credentials, virtual_packages_of
from envforge.lock.lockfile import INPUT_SHA256, Frame, LockedPackage, Lockfile, parse_lockfile
from envforge.lock.names import NameMapping, is_torch_family, torch_indexes
from envforge.lock.pages import Downloads
from envforge.lock.project import complete_transaction, read_text, refuse_unfinished, replace_together
from envforge.lock.python_index import PythonIndex, configured_index, extra_indexes
from envforge.lock.reasons import with_reasons
from envforge.lock.request import (
    Cutoff,
    LockProgress,
    LockReport,
    LockRequest,
    LockStep,
    PlatformSummary,
    recorded_cutoff,
)
from envforge.lock.solver import LockedFile, Wishes


class Made(Struct, frozen=True, kw_only=True):
    """A new lockfile that is not written yet; ``text`` is its contents."""

    report: LockReport
    text: str


def lock(request: LockRequest, progress: LockProgress = repr) -> LockReport:
    """Create or update a lockfile; on errors, raise ``EnvforgeError`` and leave the old one unchanged."""
    with exclusive_lock(request.lockfile):
        complete_transaction(request.environment)
        old = read_old(request.lockfile)
        made = make_lock(request, progress)
        if old is None or made.text != old.text:
            write_atomic(request.lockfile, made.text)
    return made.report


def make_lock(request: LockRequest, progress: LockProgress = repr) -> Made:
    """Return the lockfile that ``request`` specifies without writing it; the caller must have locked the lockfile."""
    started = time.monotonic()
    inputs = read_inputs(
        request.environment,
        request.virtual_packages,
        request.platforms,
        request.environment_text,
        others=request.others,
        categories=request.categories,
    )
    if not request.lockfile.absolute().parent.is_dir():
        raise RequestError(
            f"directory `{request.lockfile.parent}` does not exist",
            hint="to create it",
            command=shlex.join(["mkdir", "-p", str(request.lockfile.parent)]),
            code="no-folder",
        )
    old = read_old(request.lockfile)
    refuse_unknown(old.lock if old else None, request)
    cutoff = request.exclude_newer or (old.cutoff if old else Cutoff(at=None))
    _refuse_other_solver(request, cutoff)
    if old is not None and _still_fits(request, inputs, old, cutoff):
        return _kept(request, inputs, old, time.monotonic() - started)
    keeping = Keeping(old=None if request.upgrade else old, renew=request.upgrade_packages, cutoff=cutoff)
    with workshop() as folder:
        return Run(request, inputs, keeping, folder, progress, old).run(started)


def _refuse_other_solver(request: LockRequest, cutoff: Cutoff) -> None:
    if request.conda_exe is None or (cutoff.at is None and not request.upgrade_packages):
        return
    is_dated = cutoff.at is not None
    what = f"`--exclude-newer {cutoff}`" if is_dated else "`--upgrade-package`"
    other = (
        "include newer packages, pass `--exclude-newer none`" if is_dated else "upgrade all packages, pass `--upgrade`"
    )
    raise RequestError(
        f"{what} requires the embedded solver, but `--conda-exe {request.conda_exe}` was provided",
        hint=(
            Hint("to use the embedded solver, omit `--conda-exe` and unset `ENVFORGE_CONDA_EXE`"),
            Hint(f"to {other}"),
        ),
        code="other-solver",
    )


def _still_fits(request: LockRequest, inputs: Inputs, old: Old, cutoff: Cutoff) -> bool:
    if request.upgrade or request.upgrade_packages or request.verify_hashes or cutoff != old.cutoff:
        return False
    # checksums may be missing in lockfiles made by conda-lock, so those are locked again
    return INPUT_SHA256 in dict(old.lock.custom_metadata) and not check_inputs(inputs, old.lock)


def _kept(request: LockRequest, inputs: Inputs, old: Old, seconds: float) -> Made:
    """Return the old lockfile, with the new digest of the input if its comments or order changed."""
    recorded = dict(old.lock.custom_metadata)[INPUT_SHA256]
    report = LockReport(
        lockfile=request.lockfile,
        lock=old.lock,
        platforms=summaries(old.lock, inputs.platforms, {}),
        virtual_packages=(),
        virtual_packages_source="",
        hashed=(),
        warnings=(),
        seconds=seconds,
        is_unchanged=True,
        exclude_newer=old.cutoff,
    )
    # only comments or the order of lines changed, so nothing is solved
    is_same = recorded == inputs.sha256
    text = old.text if is_same else document.update_sha256(old.text.replace(recorded, inputs.sha256))
    return Made(report=report, text=text)


def change(
    request: LockRequest, edit: Callable[[str], Edit], progress: LockProgress = repr, *, dry_run: bool = False
) -> tuple[Edit, LockReport]:
    """Edit the environment of ``request`` and lock it; write neither file on errors or with ``dry_run``.

    With ``dry_run``, raise ``EnvforgeError`` if an earlier change is incomplete, because completing it would write.
    """
    environment = request.environment
    with exclusive_lock(request.lockfile):
        if dry_run:
            refuse_unfinished(environment, request.command("lock"))
        else:
            complete_transaction(environment)
        before = read_text(environment)
        edited = edit(before)
        try:
            made = make_lock(replace(request, environment_text=edited.text.replace("\r\n", "\n")), progress)
        except EnvforgeError as error:
            # of the same type, because callers and the exit code depend on it
            raise type(error)(
                f"{error.message}\n`{environment}` and `{request.lockfile}` are unchanged",
                hint=error.hints,
                code=error.code,
            ) from error
        # solving takes long enough for an editor to save the file in between
        if read_text(environment) != before:
            raise EnvforgeError(
                f"`{environment}` was edited while this command was running; nothing was written",
                hint="run this command again",
                code="edited-since",
            )
        files = {environment: edited.text.encode(), request.lockfile: made.text.encode()}
        changed = {p: data for p, data in files.items() if not p.exists() or regular(p).read_bytes() != data}
        if changed and not dry_run:
            replace_together(environment, changed)
    return edited, made.report


class Old(Struct, frozen=True, kw_only=True):
    """The lockfile that exists before a run."""

    text: str
    lock: Lockfile

    @property
    def cutoff(self) -> Cutoff:
        """The cutoff that it was created with."""
        return recorded_cutoff(self.lock)


def read_old(path: Path) -> Old | None:
    """Return the lockfile at ``path``, or ``None`` if there is none; raise ``LockfileError`` if it is invalid."""
    if not path.exists():
        return None
    try:
        text = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutsideError(f"cannot read `{path}`: {error}", code="lockfile-unreadable") from error
    return Old(text=text, lock=parse_lockfile(text, str(path)))


class Keeping(Struct, frozen=True, kw_only=True):
    """What to keep. ``old`` is ``None`` if all versions are selected again; ``renew`` names packages to upgrade."""

    old: Old | None
    renew: tuple[str, ...]
    cutoff: Cutoff

    def wishes(self, platform: str) -> Wishes:
        """Return what the embedded solver should keep on a platform."""
        packages = self.old.lock.for_platform(platform, "conda") if self.old else ()
        keep = (LockedFile(name=p.name, file_name=unquote(p.file_name), sha256=p.sha256, md5=p.md5) for p in packages)
        renew = tuple(p.name for p in packages if _names(p, self.renew))
        return Wishes(keep=tuple(keep), renew=renew, exclude_newer=self.cutoff.at)

    def seed(self, platform: str, inputs: Inputs) -> str | None:
        """Return the old lockfile as the file from which conda-lock reads its locked wheels.

        Return ``None`` if there are none, or if the channels have changed: conda-lock rejects such a file.
        """
        if self.old is None or [c for c in inputs.channels if c != "nodefaults"] != list(self.old.lock.channels):
            return None
        renewed = {p.url for p in self.old.lock.for_platform(platform, "pip") if _names(p, self.renew)}
        document = load_yaml(self.old.text)
        document["metadata"]["custom_metadata"] = None
        rows = [row for row in document["package"] if row["platform"] == platform and row["url"] not in renewed]
        # conda-lock reads the version of a row with a source, such as a URL under `pip:`, as 0.0.0
        rows = [{key: value for key, value in row.items() if key != "source"} for row in rows]
        if not any(row["manager"] == "pip" for row in rows):
            return None
        return yaml.safe_dump({**document, "package": rows}, sort_keys=False)


def refuse_unknown(lock: Lockfile | None, request: LockRequest) -> None:
    """Raise ``RequestError`` if a package to upgrade is not locked."""
    if lock is None and request.upgrade_packages:
        raise RequestError(
            f"`--upgrade-package` requires a lockfile, but `{request.lockfile}` does not exist",
            hint="to create it",
            command=request.command("lock"),
            code="not-locked",
        )
    known = {canonicalize_name(package.name) for package in lock.packages} if lock else set()
    for name in request.upgrade_packages:
        if canonicalize_name(name) in known:
            continue
        near = nearest(canonicalize_name(name), known, alike=0.6)
        raise RequestError(
            f"`--upgrade-package {name}`: `{request.lockfile}` does not contain `{name}`",
            hint=f"did you mean `--upgrade-package {near}`?" if near else "to add the package",
            command="" if near else request.command("add", name),
            code="not-locked",
        )


def _names(package: LockedPackage, names: Sequence[str]) -> bool:
    return canonicalize_name(package.name) in {canonicalize_name(name) for name in names}


class Run(Struct, dict=True):
    """One run. ``folder`` is its private directory."""

    request: LockRequest
    inputs: Inputs
    keeping: Keeping
    folder: Path
    progress: LockProgress
    old: Old | None
    mapping: NameMapping = field(default_factory=NameMapping.bundled)
    hashed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def virtual(self) -> VirtualPackages:
        """The virtual packages to lock for."""
        return virtual_packages_of(self.inputs)

    @cached_property
    def downloads(self) -> Downloads:
        """The HTTP session of this run."""
        return Downloads(self.request.mirrors, self.progress)

    @cached_property
    def known(self) -> Mapping[str, str]:
        """The SHA-256 of the old lockfile's files, by URL."""
        packages = self.old.lock.packages if self.old else ()
        return {p.url: p.sha256 for p in packages if p.sha256 and p.sha256 != UNKNOWN_SHA256}

    @cached_property
    def indexes(self) -> dict[str, PlatformIndex]:
        """The lock-time index of each platform."""
        return {platform: self._index(platform) for platform in self.inputs.platforms}

    @property
    def offers(self) -> list[Offer]:
        """The wheels that conda-lock could select."""
        return [offer for index in self.indexes.values() for offer in index.offers.values()]

    def run(self, started: float) -> Made:
        """Return the new lockfile; raise ``EnvforgeError`` if there is no solution."""
        with LockTimeIndex(self.indexes) as server:
            jobs = self._jobs(server)
            self.progress(LockStep(text=f"solving for {', '.join(self.inputs.platforms)}"))
            warnings = self._solve(server, jobs)
            channels, rows = self._rows(jobs, server)
        text = document.render_lockfile(self._frame(jobs, channels), rows, self.request.lockfile.name)
        lock = parse_lockfile(text, str(self.request.lockfile))
        self._audit(lock, text)
        report = LockReport(
            lockfile=self.request.lockfile,
            lock=lock,
            platforms=summaries(lock, self.inputs.platforms, self._sizes(lock)),
            virtual_packages=self.virtual.words(),
            virtual_packages_source=self.virtual.source,
            hashed=tuple(self.hashed),
            warnings=(*warnings, *self._warnings(lock), *self._undated(lock)),
            seconds=time.monotonic() - started,
            exclude_newer=self.keeping.cutoff,
            changes=list_changes(self.old.lock, lock) if self.old else (),
        )
        return Made(report=report, text=text)

    def _index(self, platform: str) -> PlatformIndex:
        pip = self.inputs.pip_for(platform)
        repositories = self.inputs.pip_repositories
        torch = torch_indexes(repositories)
        family = frozenset(canonicalize_name(r.name) for r in pip if is_torch_family(r.name, str(r.specifier)))
        other = tuple(url for url in repositories if url not in torch)
        registry = None
        if self.inputs.allow_registry and any(canonicalize_name(r.name) not in family for r in pip):
            registry = self._registry()
            extra = tuple(index.simple_url for index in self.extra if index.is_served)
            other = tuple(dict.fromkeys((*other, *extra, registry.simple_url)))
            torch = torch or torch_indexes(extra)
        records = self._workplace(platform) / "records"
        return PlatformIndex(
            wanted=Wanted(
                platform=platform,
                pip=pip,
                virtual=self.virtual.of(platform),
                records=records,
                cutoff=self.keeping.cutoff,
            ),
            sources=Sources(torch=torch or repositories, other=other, family=family, registry=registry),
            downloads=self.downloads,
            mapping=self.mapping,
        )

    def _registry(self) -> PythonIndex:
        """Return the package index of the request, or else the one that uv or pip is configured for."""
        if self.request.python_index is not None:
            return PythonIndex(simple_url=self.request.python_index, source="the request")
        return configured_index(os.environ, Path.home(), Path(sys.prefix))

    @cached_property
    def extra(self) -> tuple[PythonIndex, ...]:
        """The further indexes that uv and pip are configured for, unless the request names the only one."""
        is_configured = self.inputs.allow_registry and self.request.python_index is None
        return extra_indexes(os.environ, Path.home(), Path(sys.prefix)) if is_configured else ()

    def _jobs(self, server: LockTimeIndex) -> list[LockJob]:
        conda = self._conda()
        return [
            LockJob(
                platform=platform,
                folder=self._workplace(platform),
                conda=conda,
                mirrors=self.request.mirrors,
                index=server.simple(platform),
                wishes=self.keeping.wishes(platform),
                seed=self.keeping.seed(platform, self.inputs),
            )
            for platform in self.inputs.platforms
        ]

    def _workplace(self, platform: str) -> Path:
        # conda-lock passes channels in this directory to conda, which strips a part such as `/linux-64/` from a URL
        return self.folder / f"solve-{platform}"

    def _conda(self) -> Path:
        tools = self.folder / "bin"
        tools.mkdir()
        stated = self.request.conda_exe
        if stated is None:
            launcher = condalock.solver_launcher(tools)
        else:
            found = shutil.which(str(stated))
            if found is None:
                raise RequestError(
                    f"`{stated}` is not an executable file",
                    hint="to use the embedded solver, omit `--conda-exe` and unset `ENVFORGE_CONDA_EXE`",
                    code="no-conda-exe",
                )
            launcher = condalock.conda_launcher(tools, Path(found).absolute())
        if not os.access(launcher, os.X_OK):
            folder = self.folder.parent
            raise OutsideError(
                f"cannot run programs in the temporary directory `{folder}`: it is mounted with `noexec`",
                hint="to use another directory for temporary files, set `TMPDIR=DIR`",
                code="noexec-tmp",
            )
        return launcher

    def _solve(self, server: LockTimeIndex, jobs: list[LockJob]) -> tuple[str, ...]:
        """Run conda-lock until every marker is evaluated for the version of Python that it selects."""
        warnings = self._solve_keeping(server, jobs)
        undecided = [job for job in jobs if self.inputs.is_undecided(job.platform)]
        if undecided:
            self.progress(LockStep(text="solving again: markers depend on the version of Python"))
            solved = [(job, read_solve(job.records)) for job in undecided]
            again = [replace(job, python=solve.python if solve else None) for job, solve in solved]
            warnings += self._solve_keeping(server, again)
        return tuple(dict.fromkeys(warnings))

    def _solve_keeping(self, server: LockTimeIndex, jobs: list[LockJob]) -> tuple[str, ...]:
        try:
            return condalock.run_conda_lock(self.inputs, self.virtual.text(), jobs)
        except EnvforgeError as error:
            if server.fault is not None:
                raise server.fault from error
            # the locked wheels can be the cause if the conda packages are solved, or if conda-lock crashes on an edited
            # lockfile
            is_crash = error.code == "conda-lock-failed"
            if not any(job.seed is not None and (is_crash or read_solve(job.records) is not None) for job in jobs):
                raise with_reasons(error, self.request, self.inputs, self.indexes) from error
        self.progress(LockStep(text="solving again: the locked wheels conflict with the requirements"))
        return self._solve_keeping(server, [replace(job, seed=None) for job in jobs])

    def _rows(self, jobs: Sequence[LockJob], server: LockTimeIndex) -> tuple[list[Any], list[dict[str, Any]]]:
        """Return the channels and the packages of all platforms, with public URLs in place of loopback URLs."""
        channels: list[Any] = []
        rows: list[dict[str, Any]] = []
        for job in jobs:
            channels, found = document.load_documents(job.output)
            optional = self.indexes[job.platform].optional
            names = {canonicalize_name(row["name"]) for row in found}
            for row in found:
                offer = server.offer(row["url"])
                # no offer is a conda package
                public = {"url": offer.file.url, "hash": {"sha256": self._checked_sha256(offer)}} if offer else {}
                # a dependency that only an extra needs is not locked, and `lock --check` would miss it
                left_out = optional.get(row["name"], frozenset()) - names if row["manager"] == "pip" else ()
                needs = {n: v for n, v in row["dependencies"].items() if canonicalize_name(n) not in left_out}
                rows.append({**row, **public, "dependencies": needs})
        return channels, rows

    def _checked_sha256(self, offer: Offer) -> str:
        """Return the SHA-256 of a wheel; raise ``EnvforgeError`` if it differs from the old lockfile."""
        file, before = offer.file, self.known.get(offer.file.url)
        # a stated hash is trusted here, because a CUDA build is 3 GB; `install` verifies the bytes (decision 0041)
        if file.url not in self.hashed and (self.request.verify_hashes or (file.sha256 or before) is None):
            self.hashed[file.url] = self.downloads.sha256(file)
        sha256 = self._sha256(offer)
        if before and before != sha256 and not offer.is_direct:
            raise EnvforgeError(
                f"`{show_url(file.url)}` has changed: expected SHA-256 `{before}` (`{self.request.lockfile}`), "
                f"found `{sha256}` (package index)",
                hint=self._trust_change(),
                code="hash-changed",
            )
        return sha256

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

    def _frame(self, jobs: list[LockJob], channels: list[Any]) -> Frame:
        folder = self.request.lockfile.resolve().parent
        return Frame(
            content_hash=condalock.hashes_of(jobs),
            channels=channels,
            platforms=self.inputs.platforms,
            sources=tuple(Path(os.path.relpath(file.path.resolve(), folder)).as_posix() for file in self.inputs.files),
            custom={
                document.CREATED_BY: "envforge",  # without a version, so that a new release changes no lockfile
                document.INPUT_SHA256: self.inputs.sha256,
                document.EXCLUDE_NEWER: "" if self.keeping.cutoff.at is None else str(self.keeping.cutoff),
                document.VARIABLES: document.variables_text(self.inputs.variables),
                document.CATEGORIES: ",".join(self.inputs.categories),
            },
        )

    def _audit(self, lock: Lockfile, text: str) -> None:
        """Raise ``EnvforgeError`` if the lockfile is invalid, or isn't what the environment files request."""
        refuse_credentials(str(self.request.lockfile), text.splitlines())
        direct = [offer.file.url for offer in self.offers if offer.is_direct]
        torch = {without_user(url) for index in self.indexes.values() for url in index.sources.torch}
        other = {url for index in self.indexes.values() for url in index.sources.other}
        expected = Expectations(
            digests={offer.file.url: self._sha256(offer) for offer in self.offers},
            torch_urls=frozenset({offer.file.url for offer in self.offers if offer.index in torch}.union(direct)),
            family=frozenset(offer.name for offer in self.offers if is_torch_family(offer.name)),
            asked=(*self.inputs.channels, *self.inputs.pip_repositories, *other, *direct),
        )
        self._refuse_unknown_extras(lock)
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

    def _refuse_unknown_extras(self, lock: Lockfile) -> None:
        """Raise ``EnvforgeError`` for a requested extra that the locked version doesn't have; Poetry ignores those."""
        for platform, index in self.indexes.items():
            locked = {canonicalize_name(p.name): p for p in lock.for_platform(platform, "pip")}
            for requirement in index.wanted.pip:
                name = canonicalize_name(requirement.name)
                package = locked.get(name)
                known = index.extras.get((name, Version(package.version))) if package is not None else None
                if package is None or known is None:
                    continue
                unknown = sorted(extra for extra in requirement.extras if canonicalize_name(extra) not in known)
                if unknown:
                    existing = ", ".join(f"`{extra}`" for extra in sorted(known)) or "no extras"
                    raise EnvforgeError(
                        f"`{package.name} {package.version}` has no extra `{unknown[0]}`, which `{requirement}` "
                        f"requests; it has {existing}",
                        hint="remove the extra from environment.yml, or request a version that has it",
                        code="no-such-extra",
                    )

    def _sizes(self, lock: Lockfile) -> dict[str, int]:
        """Return the size in bytes of each file whose index or server states it, by URL."""
        sizes = {offer.file.url: offer.file.size for offer in self.offers if offer.file.size}
        for index in self.indexes.values():
            sizes.update({package.url: package.size for package in index.solve.packages if package.size})
        missing = [package.url for package in lock.packages if package.url not in sizes]
        missing = [url for url in missing if url.startswith(("https://", "http://"))]
        if missing:
            self.progress(LockStep(text="reading the sizes of wheels"))
            sizes.update(self.downloads.sizes(missing))
        return sizes

    def _warnings(self, lock: Lockfile) -> Iterator[str]:
        for index in self.extra if any(one.sources.registry for one in self.indexes.values()) else ():
            if not index.is_served:
                yield (
                    f"the package index `{index.public_url}` (configured in {index.source}) is not used, because other "
                    "machines can't reach it"
                )
        if self.old is not None and self.old.lock.was_edited:
            yield f"`{self.request.lockfile}` was edited after envforge wrote it, so it was solved again"
        for offer in self.offers:
            if offer.file.is_yanked and any(package.url == offer.file.url for package in lock.packages):
                yield f"`{offer.name} {offer.version}` was yanked by its publisher, but an exact pin requests it"
        yield from self.inputs.left_out
        for entry in self.inputs.unused():
            yield f"{entry.line}: `{entry.text}` applies to none of the platforms {', '.join(self.inputs.platforms)}"
        if self.request.conda_exe is None:
            return
        name = self.request.conda_exe.name
        if self.request.mirrors.rules:
            yield f"`{name}` ignores `--mirror` and `ENVFORGE_MIRRORS`; set up mirrors in its own configuration"
        if self.keeping.old is not None:
            yield f"`{name}` selected all conda packages again; only the embedded solver keeps locked versions"

    def _undated(self, lock: Lockfile) -> Iterator[str]:
        """Yield a warning for packages without a known date if there is a cutoff."""
        if self.keeping.cutoff.at is None:
            return
        dated = {offer.file.url for offer in self.offers if offer.file.uploaded}
        dated |= {
            package.url for index in self.indexes.values() for package in index.solve.packages if package.timestamp
        }
        names = sorted({package.name for package in lock.packages if package.url not in dated})
        if names:
            yield f"no date is known for {', '.join(names)}; they may be newer than {self.keeping.cutoff}"


_OF_REQUESTS = {"not-locked", "other-version", "not-requested"}


def summaries(lock: Lockfile, platforms: Sequence[str], sizes: Mapping[str, int]) -> tuple[PlatformSummary, ...]:
    """Count the packages of platforms and their bytes; ``sizes`` is by URL."""
    return tuple(_summary(lock, platform, sizes) for platform in platforms)


def _summary(lock: Lockfile, platform: str, sizes: Mapping[str, int]) -> PlatformSummary:
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
