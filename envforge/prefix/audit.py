"""Compare a prefix with its lockfile, and restore it: reinstall what differs, and move away files of no package."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, Hint
from envforge.lock.lockfile import Lockfile, Manager
from envforge.lock.plan import Artifact, Plan, Wheel, make_plan, read_any_lock, record_name, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY, PYLOCK
from envforge.prefix.audit_files import AuditFinding, Files, FindingKind, digest_of, hash_files, read_inventory
from envforge.prefix.installed import (
    CondaPackage,
    Distribution,
    conda_owners,
    read_conda,
    read_distributions,
    site_packages_of,
)
from envforge.prefix.journal import (
    Journal,
    journal_path,
    keep_lockfile,
    kept_lockfile,
    lock_prefix,
    read_journal,
    write_journal,
)
from envforge.prefix.locate import ChosenEnvironment, check_exists, check_in_place, check_python
from envforge.prefix.values import InstallProgress, InstallRequest, Silent
from envforge.prefix.venv import files_of_creator, is_venv, seed_packages, venv_site_packages

_PROGRESS = Silent()


class AuditRequest(Struct, frozen=True, kw_only=True):
    """One audit. ``lockfile`` None means the one that the prefix was created from; ``full`` reads every file again.

    ``platform`` is used if the prefix has no journal that states its platform. If the prefix matches the lockfile,
    ``adopt`` records that envforge manages it.
    """

    prefix: Path
    platform: str
    lockfile: Path | None = None
    full: bool = False
    adopt: bool = False


class Counts(Struct, frozen=True, kw_only=True):
    """Number of checked packages and files. ``read_files`` and ``read_bytes`` were hashed now, the rest earlier.

    ``unowned_files`` belong to no package and are outside the directories from which Python imports.
    """

    packages: int
    files: int
    bytes: int
    read_files: int
    read_bytes: int
    unowned_files: int


class AuditReport(Struct, frozen=True, kw_only=True):
    """Result of an audit. ``drift`` differs from the lockfile; ``warnings`` are risks that the lockfile causes.

    ``digest`` is one SHA-256 over the installed files, independent of the path of the prefix. ``notes`` report problems
    of the audit itself.
    """

    prefix: Path
    lockfile: Path
    platform: str
    drift: tuple[AuditFinding, ...]
    warnings: tuple[AuditFinding, ...]
    digest: str
    counts: Counts
    notes: tuple[str, ...] = ()


class Repair(Struct, frozen=True, kw_only=True):
    """Result of ``--fix``: packages that were reinstalled or removed, and files that were moved away.

    ``after`` is the audit that followed.
    """

    linked: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    moved_to: Path
    after: AuditReport


def audit(request: AuditRequest, progress: InstallProgress = _PROGRESS) -> AuditReport:
    """Compare a prefix with its lockfile; raise ``EnvforgeError`` if the prefix doesn't exist or is incomplete."""
    request = replace(request, prefix=Path(os.path.abspath(request.prefix)))  # noqa: PTH100 - keep symbolic links
    journal = _journal(request.prefix)
    path = request.lockfile or own_lock(request.prefix, journal)
    # an environment may have been made for another platform than this one
    platform = journal.platform if journal else request.platform
    categories = journal.categories if journal else ()
    lockfile = read_any_lock(path, platform)
    plan = make_plan(lockfile, platform, path, allow_builds=True, categories=categories)
    report = _compare(request, plan, journal, path, progress)
    if request.adopt and not report.drift:
        _adopt(request.prefix, path, lockfile, plan)
    return report


def _adopt(prefix: Path, path: Path, lockfile: Lockfile, plan: Plan) -> None:
    """Record that envforge manages a prefix from now on; no package and no file of it is changed."""
    journal = Journal(
        step="verified",
        fingerprint=plan.fingerprint,
        lockfile=os.path.abspath(path),  # noqa: PTH100 - keep symbolic links
        platform=plan.platform,
        created=False,  # so that an install never empties it
        conda=plan.records,
        wheels=plan.wheel_names,
        prefix=str(prefix),
        variables=lockfile.variables,
        adopted=True,
    )
    with lock_prefix(prefix):
        keep_lockfile(path, prefix)
        write_journal(prefix, journal)


def _compare(
    request: AuditRequest, plan: Plan, journal: Journal | None, lockfile: Path, progress: InstallProgress
) -> AuditReport:
    files = read_files(request.prefix)
    hashes = hash_files(request.prefix, files.to_hash, files.inventory, progress, full=request.full)
    locked = frozenset(wheel_of(artifact).name for artifact in plan.wheels)
    seeds = seed_packages(request.prefix, is_created=journal is not None and journal.created) - locked
    drift, warnings = split_by_lock(owned_twice(files), locked)
    return AuditReport(
        prefix=request.prefix,
        lockfile=lockfile,
        platform=plan.platform,
        drift=(*_packages(plan, files, journal, seeds), *drift, *files.findings(hashes.sha256)),
        warnings=(*warnings, *openmp_runtimes(files, hashes.sha256)),
        digest=digest_of(files.digest_lines(hashes.sha256)),
        counts=Counts(
            packages=len(files.conda) + len(files.wheels),
            files=len(files.to_hash),
            bytes=sum(files.inventory[path].size for path in files.to_hash),
            read_files=hashes.read_files,
            read_bytes=hashes.read_bytes,
            unowned_files=files.unowned,
        ),
        notes=(*hashes.notes, *_not_compared(files, seeds)),
    )


def read_files(prefix: Path) -> Files:
    """Read the files of a prefix and the packages that own them."""
    conda = read_conda(prefix)
    site_packages = site_packages_of(conda, prefix) or venv_site_packages(prefix)
    return Files(
        prefix=prefix,
        inventory=read_inventory(prefix),
        conda=conda,
        wheels=read_distributions(prefix, site_packages, conda) if site_packages else (),
        library=site_packages.rpartition("/")[0] if site_packages else None,
        unlisted=files_of_creator(prefix),
    )


def _packages(plan: Plan, files: Files, journal: Journal | None, seeds: frozenset[str]) -> tuple[AuditFinding, ...]:
    # another tool installed the wheels of an adopted prefix, so they don't name uv
    kept = journal.wheels if journal and not journal.adopted else ()
    compared = (wheel for wheel in files.wheels if wheel.name not in seeds)
    return (*compare_conda(plan, files.conda), *compare_wheels(plan, compared, kept))


def _not_compared(files: Files, seeds: frozenset[str]) -> Iterator[str]:
    """Yield a note about each part of a virtual environment that is from its creator, and not from a lockfile."""
    extra = [f"{wheel.name} {wheel.version}" for wheel in files.wheels if wheel.name in seeds]
    if extra:
        yield f"not in the lockfile, and kept as packages of the virtual environment itself: {', '.join(extra)}"
    own = sorted(path for path in files.unlisted if path in files.inventory)
    if own:
        yield f"files of the virtual environment itself, which no package lists: {', '.join(own)}"


def _journal(prefix: Path) -> Journal | None:
    """Return the journal of a prefix; raise ``EnvforgeError`` if the prefix doesn't exist or is incomplete."""
    meant = ChosenEnvironment(prefix=prefix, option=f"--prefix {shlex.quote(str(prefix))}")
    check_exists(meant)
    journal = read_journal(prefix)
    check_in_place(meant, journal)
    check_python(meant)
    if journal is not None and journal.step != "verified":
        raise EnvforgeError(
            f"the environment in `{prefix}` is incomplete: an earlier command was interrupted "
            f"(last step: `{journal.step}`)",
            hint=(
                Hint(
                    "to complete it",
                    journal.again(shlex.join(["envforge", "install", journal.lockfile, "--prefix", str(prefix)])),
                ),
                Hint("to complete and audit it", shlex.join(["envforge", "audit", "--fix", "--prefix", str(prefix)])),
            ),
            code="prefix-unfinished",
        )
    return journal


def own_lock(prefix: Path, journal: Journal | None) -> Path:
    """Return the lockfile that a prefix was created from, or its copy in the prefix if it no longer exists."""
    if journal is None and is_venv(prefix) and (prefix.parent / PYLOCK).is_file():
        return prefix.parent / PYLOCK
    if journal is None:
        raise EnvforgeError(
            f"envforge did not create `{prefix}`, so its lockfile is unknown",
            hint=(
                Hint(
                    "to compare it with a lockfile", shlex.join(["envforge", "audit", "LOCK", "--prefix", str(prefix)])
                ),
                Hint(
                    "to manage it with envforge if it matches",
                    shlex.join(["envforge", "audit", "LOCK", "--adopt", "--prefix", str(prefix)]),
                ),
            ),
            code="no-lock-known",
        )
    stated = Path(journal.lockfile)
    if journal.was_moved(prefix):  # with its project, which contains the lockfile
        stated = Path(os.path.normpath(prefix / os.path.relpath(stated, journal.prefix)))
    return stated if stated.exists() else kept_lockfile(prefix, stated)


def compare_conda(plan: Plan, installed: Iterable[CondaPackage]) -> Iterator[AuditFinding]:
    """Yield the differences between the locked conda packages and ``conda-meta``."""
    found = {package.name: package for package in installed}
    wanted = {artifact.package.name: artifact for artifact in plan.conda}
    for name, artifact in wanted.items():
        if name not in found:
            yield _missing(artifact)
        else:
            yield from _conda_differs(artifact, found[name])
    for name in sorted(found.keys() - wanted.keys()):
        package = found[name]
        yield AuditFinding(
            kind="package-extra",
            text=f"`{package.stem}` is not in the lockfile",
            package=name,
            manager="conda",
            found=package.version,
        )


def _conda_differs(artifact: Artifact, found: CondaPackage) -> Iterator[AuditFinding]:
    locked = artifact.package
    if found.version != locked.version:
        yield _other(artifact, "package-version", locked.version, found.version)
    elif found.stem != record_name(artifact):
        head = f"{found.name}-{found.version}-"
        builds = (text.removeprefix(head) for text in (record_name(artifact), found.stem))
        yield _other(artifact, "package-build", *builds)
    else:
        stated = found.sha256 if artifact.digest.algorithm == "sha256" else found.md5
        if stated and stated != artifact.digest.hex:
            algorithm = artifact.digest.algorithm
            yield _other(artifact, "package-origin", str(artifact.digest), f"{algorithm}:{stated}")
        # some records of conda state no checksum, so the URL is all that there is to compare
        elif not stated and show_url(locked.url) != found.url:
            yield _other(artifact, "package-origin", show_url(locked.url), found.url)


def compare_wheels(plan: Plan, installed: Iterable[Distribution], kept: Iterable[Wheel]) -> Iterator[AuditFinding]:
    """Yield the differences between the locked wheels and what is installed; ``kept`` is what envforge installed."""
    found: dict[str, list[Distribution]] = {}
    for distribution in installed:
        found.setdefault(distribution.name, []).append(distribution)
    wanted: dict[str, Artifact] = {_name(artifact): artifact for artifact in plan.wheels}
    known = {wheel.name: wheel for wheel in kept}
    for name, artifact in wanted.items():
        here = found.get(name, [])
        if not here:
            yield _missing(artifact)
        for distribution in here:
            yield from _wheel_differs(artifact, distribution, known.get(name))
    for name in sorted(found.keys() - wanted.keys()):
        for distribution in found[name]:
            yield _stray_install(distribution)


def _wheel_differs(artifact: Artifact, found: Distribution, kept: Wheel | None) -> Iterator[AuditFinding]:
    wanted = wheel_of(artifact)
    if not _same_version(wanted.version, found.version):
        yield _other(artifact, "package-version", wanted.version, found.version)
    elif found.origin is not None and found.origin.sha256 != artifact.digest.hex:
        yield _other(artifact, "package-origin", show_url(artifact.package.url), _of(found))
    # envforge installs by uv, so another installer has replaced the wheel since
    elif kept is not None and found.installer != "uv":
        yield _other(artifact, "package-origin", "the wheel that envforge installed", _of(found))
    elif kept is not None and kept.sha256 != wanted.sha256:
        yield _other(artifact, "package-origin", f"sha256:{wanted.sha256}", f"sha256:{kept.sha256}")


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except ValueError:
        return one == other


def _stray_install(found: Distribution) -> AuditFinding:
    editable = found.origin is not None and found.origin.is_editable
    return AuditFinding(
        kind="package-editable" if editable else "package-extra",
        text=f"`{found.name} {found.version}` is not in the lockfile; it was installed by {_of(found)}",
        package=found.name,
        manager="pip",
        found=found.version,
    )


def _of(found: Distribution) -> str:
    """Return who installed a distribution, and from which URL if not from a package index."""
    who = found.installer or "an unknown installer"
    if found.origin is None:
        return who
    return f"{who} from {show_url(found.origin.url)}" + (" (editable)" if found.origin.is_editable else "")


def _missing(artifact: Artifact) -> AuditFinding:
    package = artifact.package
    return AuditFinding(
        kind="package-missing",
        text=f"`{artifact.label}` is not installed",
        package=_name(artifact),
        manager=package.manager,
        wanted=package.version,
    )


def _other(artifact: Artifact, kind: FindingKind, wanted: str, found: str) -> AuditFinding:
    return AuditFinding(
        kind=kind,
        text=f"`{artifact.label}`: another {kind.removeprefix('package-')}: expected `{wanted}`, found `{found}`",
        package=_name(artifact),
        manager=artifact.package.manager,
        wanted=wanted,
        found=found,
    )


def _name(artifact: Artifact) -> str:
    name = artifact.package.name
    return name if artifact.package.manager == "conda" else canonicalize_name(name)


# GNU (libgomp), Intel (libiomp5), LLVM (libomp), Microsoft (vcomp); wheels add a hash to the name of a bundled one
_OPENMP = re.compile(
    r"(lib(gomp|iomp5|omp)(-[0-9a-f]+)?(\.so[.\d]*|[.\d]*\.dylib)|(libiomp5md|libomp[\w.]*|vcomp\d+)\.dll)"
)


def owned_twice(files: Files) -> Iterator[AuditFinding]:
    """Yield the wheels that conda also owns, by the name in their metadata or because they share files."""
    owners = conda_owners(files.conda, files.wheels)
    for wheel in files.wheels:
        if wheel.name in owners:
            names = ", ".join(f"`{name}`" for name in sorted(owners[wheel.name]))
            yield AuditFinding(
                kind="owned-twice",
                text=f"the wheel `{wheel.name} {wheel.version}` is also installed as the conda package {names}",
                package=wheel.name,
                manager="pip",
                found=wheel.version,
            )


def openmp_runtimes(files: Files, sha256: Mapping[str, str]) -> Iterator[AuditFinding]:
    """Yield one finding if a prefix has more than one OpenMP runtime; copies of one runtime count once."""
    # a warning, not drift: `--fix` can't repair it, and every environment with a torch wheel and conda's numpy has two
    different: dict[str, str] = {}
    for path in sorted(path for path in files.inventory if "omp" in path):
        if files.inventory[path].target is None and _OPENMP.fullmatch(posixpath.basename(path)):
            different.setdefault(sha256.get(path, path), path)
    if len(different) > 1:
        places = [f"`{path}` ({_owner(files, path)})" for path in different.values()]
        yield AuditFinding(
            kind="openmp",
            text=f"{len(places)} OpenMP runtimes, which can slow down or crash a process that loads more than one: "
            + ", ".join(places),
        )


def _owner(files: Files, path: str) -> str:
    claims = files.owned.get(path)
    return claims[-1].label if claims else "no package"


def split_by_lock(
    found: Iterable[AuditFinding], locked: frozenset[str]
) -> tuple[list[AuditFinding], list[AuditFinding]]:
    """Separate findings whose wheel is not locked (drift) from those that the lockfile itself causes."""
    chosen = list(found)
    return [f for f in chosen if f.package not in locked], [f for f in chosen if f.package in locked]


MOVED = f"{ENVFORGE_DIRECTORY}/moved"
_ROUNDS = 2


def repair(report: AuditReport, audited: AuditRequest, request: InstallRequest, progress: InstallProgress) -> Repair:
    """Undo the drift of ``report`` with ``install``, which downloads, verifies, and links only what differs.

    A second round repairs what the first one uncovered: files that an uninstalled package left behind, and files that
    it shared with another package.
    """
    if not journal_path(report.prefix).exists():
        raise EnvforgeError(
            f"envforge did not create `{report.prefix}`, so `--fix` does not change it",
            hint="to install the lockfile into it anyway",
            command=shlex.join(
                ["envforge", "install", str(report.lockfile), "--prefix", str(report.prefix), "--force"]
            ),
            code="prefix-foreign",
        )
    from envforge.prefix.install import install  # noqa: PLC0415 - an audit alone needs no installer

    journal = read_journal(report.prefix)
    request = replace(request, categories=journal.categories if journal else ())
    linked: dict[str, None] = {}
    removed: dict[str, None] = {}
    moved: list[str] = []
    for _ in range(_ROUNDS):
        if not report.drift:
            break
        with lock_prefix(report.prefix):
            moved += _move_aside(report.prefix, [found.path for found in report.drift if found.kind == "file-stray"])
        done = install(replace(request, reinstall=_owners(report.drift), reread=True), progress)
        linked |= dict.fromkeys(done.linked)
        removed |= dict.fromkeys(done.removed)
        report = audit(audited, progress)
    return Repair(
        linked=tuple(linked),
        removed=tuple(removed),
        moved=tuple(moved),
        moved_to=report.prefix / MOVED,
        after=report,
    )


def _owners(findings: Iterable[AuditFinding]) -> frozenset[tuple[Manager, str]]:
    """Return the packages that findings refer to, by manager and name."""
    return frozenset((found.manager, found.package) for found in findings if found.manager is not None)


def _move_aside(prefix: Path, paths: Iterable[str]) -> Iterator[str]:
    """Move files to ``MOVED`` and yield their paths; files that were moved earlier are not replaced."""
    for path in sorted(paths):
        # a file that belongs to no package may be someone's work, so it is moved and never deleted
        target = prefix / MOVED / path
        number = 1
        while target.exists() or target.is_symlink():
            number += 1
            target = (prefix / MOVED / path).with_name(f"{Path(path).name}.{number}")
        target.parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).rename(target)
        _remove_empty((prefix / path).parent)
        yield path


def _remove_empty(folder: Path) -> None:
    """Remove directories that contain only bytecode."""
    while folder.name != "site-packages" and all(entry.name == "__pycache__" for entry in folder.iterdir()):
        shutil.rmtree(folder)
        folder = folder.parent
