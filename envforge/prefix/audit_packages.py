"""Compare the packages and libraries of a prefix with the lockfile."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envforge.base.urls import show_url
from envforge.lock.plan import Artifact, Plan, Wheel, record_name, wheel_of
from envforge.prefix.audit_files import Files
from envforge.prefix.audit_report import Finding, Kind
from envforge.prefix.installed import CondaPackage, Distribution


def compare_conda(plan: Plan, installed: Iterable[CondaPackage]) -> Iterator[Finding]:
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
        yield Finding(
            kind="package-extra",
            text=f"`{package.stem}` is not in the lockfile",
            package=name,
            manager="conda",
            found=package.version,
        )


def _conda_differs(artifact: Artifact, found: CondaPackage) -> Iterator[Finding]:
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
        elif not stated and show_url(locked.url) != found.url:
            yield _other(artifact, "package-origin", show_url(locked.url), found.url)


def compare_wheels(plan: Plan, installed: Iterable[Distribution], kept: Iterable[Wheel]) -> Iterator[Finding]:
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


def _wheel_differs(artifact: Artifact, found: Distribution, kept: Wheel | None) -> Iterator[Finding]:
    wanted = wheel_of(artifact)
    if not _same_version(wanted.version, found.version):
        yield _other(artifact, "package-version", wanted.version, found.version)
    elif found.origin is not None and found.origin.sha256 != artifact.digest.hex:
        yield _other(artifact, "package-origin", show_url(artifact.package.url), _of(found))
    elif kept is not None and found.installer != "uv":
        yield _other(artifact, "package-origin", "the wheel that envforge installed", _of(found))
    elif kept is not None and kept.sha256 != wanted.sha256:
        yield _other(artifact, "package-origin", f"sha256:{wanted.sha256}", f"sha256:{kept.sha256}")


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _stray_install(found: Distribution) -> Finding:
    editable = found.origin is not None and found.origin.is_editable
    return Finding(
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


def _missing(artifact: Artifact) -> Finding:
    package = artifact.package
    return Finding(
        kind="package-missing",
        text=f"`{artifact.label}` is not installed",
        package=_name(artifact),
        manager=package.manager,
        wanted=package.version,
    )


def _other(artifact: Artifact, kind: Kind, wanted: str, found: str) -> Finding:
    return Finding(
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


def owned_twice(files: Files) -> Iterator[Finding]:
    """Yield the wheels that conda also owns, by the name in their metadata or because they share files."""
    by_name = {name: package.name for package in files.conda for name in _python_names(package)}
    shared: dict[str, set[str]] = {}
    for claims in files.owned.values():
        if len(claims) > 1 and claims[-1].manager == "pip":
            of_conda = {owned.package for owned in claims if owned.manager == "conda"}
            shared.setdefault(claims[-1].package, set()).update(of_conda)
    for wheel in files.wheels:
        also = shared.get(wheel.name, set()) | ({by_name[wheel.name]} if wheel.name in by_name else set())
        if also:
            names = ", ".join(f"`{name}`" for name in sorted(also))
            yield Finding(
                kind="owned-twice",
                text=f"the wheel `{wheel.name} {wheel.version}` is also installed as the conda package {names}",
                package=wheel.name,
                manager="pip",
                found=wheel.version,
            )


def _python_names(package: CondaPackage) -> Iterator[str]:
    """Yield the distributions that a conda package contains, by their metadata."""
    for claim in package.claims:
        folder, _, name = claim.path.rpartition("/")
        if name in {"METADATA", "PKG-INFO"} and folder.endswith((".dist-info", ".egg-info")):
            stem = posixpath.basename(folder).rsplit(".", 1)[0]
            yield canonicalize_name(stem.split("-", 1)[0])


def openmp_runtimes(files: Files, sha256: Mapping[str, str]) -> Iterator[Finding]:
    """Yield one finding if a prefix has more than one OpenMP runtime; copies of one runtime count once."""
    # a warning, not drift: `--fix` can't repair it, and every environment with a torch wheel and conda's numpy has two
    different: dict[str, str] = {}
    for path, entry in sorted(files.inventory.items()):
        if entry.target is None and _OPENMP.fullmatch(posixpath.basename(path)):
            different.setdefault(sha256.get(path, path), path)
    if len(different) > 1:
        places = [f"`{path}` ({_owner(files, path)})" for path in different.values()]
        yield Finding(
            kind="openmp",
            text=f"{len(places)} OpenMP runtimes, which can slow down or crash a process that loads more than one: "
            + ", ".join(places),
        )


def _owner(files: Files, path: str) -> str:
    claims = files.owned.get(path)
    return claims[-1].label if claims else "no package"


def split_by_lock(found: Iterable[Finding], locked: frozenset[str]) -> tuple[list[Finding], list[Finding]]:
    """Separate findings whose wheel is not locked (drift) from those that the lockfile itself causes."""
    chosen = list(found)
    return [f for f in chosen if f.package not in locked], [f for f in chosen if f.package in locked]
