"""Compare the packages of a prefix with the locked packages, by name, version, build, and origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envforge.audit.records import CondaPackage, Distribution
from envforge.audit.values import Finding, Kind
from envforge.install.journal import Wheel
from envforge.install.plan import Plan, record_name, wheel_of
from envforge.install.values import Artifact


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
        elif not stated and _shown(locked.url) != found.url:
            yield _other(artifact, "package-origin", _shown(locked.url), found.url)


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
        yield _other(artifact, "package-origin", _shown(artifact.package.url), _of(found))
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
    return f"{who} from {_shown(found.origin.url)}" + (" (editable)" if found.origin.is_editable else "")


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


def _shown(url: str) -> str:
    from envforge.install.credentials import without_credentials  # noqa: PLC0415 - imports an HTTP client

    return without_credentials(url)
