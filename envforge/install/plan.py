"""Plan an install: the packages of one platform, the checksums that their files must have, and what must change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from envforge.errors import EnvforgeError, Hint
from envforge.install.journal import Journal, Wheel
from envforge.install.values import Artifact, Digest
from envforge.lockfile import LockedPackage, Lockfile, Manager

_INSTALLED_CATEGORIES = {"main", "dev"}
_ARCHIVES = (".conda", ".tar.bz2")
_SOURCES = (".tar.gz", ".zip", ".tgz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The packages of one platform, by package manager, in the order of the lockfile."""

    platform: str
    conda: tuple[Artifact, ...]
    wheels: tuple[Artifact, ...]
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 that identifies the packages; the same packages have the same fingerprint on every machine."""
        rows = sorted([a.package.manager, a.file_name, str(a.digest)] for a in (*self.conda, *self.wheels))
        return hashlib.sha256(json.dumps([self.platform, rows]).encode()).hexdigest()

    @property
    def records(self) -> tuple[str, ...]:
        """The file names of the conda packages in conda-meta, without ``.json``."""
        return tuple(sorted(record_name(artifact) for artifact in self.conda))

    @property
    def wheel_names(self) -> tuple[Wheel, ...]:
        """The wheels as the journal records them."""
        return tuple(sorted((wheel_of(artifact) for artifact in self.wheels), key=lambda wheel: wheel.name))


def make_plan(lockfile: Lockfile, platform: str, where: Path, *, allow_builds: bool = False) -> Plan:
    """Select the packages of ``platform``.

    Raises ``EnvforgeError`` that lists each package that can't be installed and verified.
    """
    if platform not in lockfile.platforms:
        from envforge.lock.project import platform_hints  # noqa: PLC0415 - only errors need it

        raise EnvforgeError(
            f"the lockfile `{where}` has no packages for `{platform}`; it has packages for "
            + (", ".join(f"`{name}`" for name in lockfile.platforms) or "no platform"),
            hint=platform_hints(where, lockfile.platforms, platform),
            code="platform-not-locked",
        )
    chosen = _chosen(lockfile.for_platform(platform))
    _refuse(chosen, allow_builds=allow_builds)
    artifacts = [Artifact(package=package, digest=_digest(package)) for package in chosen]
    names = {artifact.package.name for artifact in artifacts if artifact.package.manager == "conda"}
    if "python" not in names and len(names) < len(artifacts):
        raise EnvforgeError(
            f"the lockfile `{where}` has wheels, but no conda package `python` to install them for",
            hint="to add Python to environment.yml and lock again",
            command="envforge add python",
            code="no-python",
        )
    return Plan(
        platform=platform,
        conda=tuple(a for a in artifacts if a.package.manager == "conda"),
        wheels=tuple(a for a in artifacts if a.package.manager == "pip"),
        warnings=_warnings(artifacts),
    )


def _chosen(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the packages that ``conda-lock install`` installs too: categories main and dev, each name once."""
    chosen: dict[tuple[str, str], LockedPackage] = {}
    for package in packages:
        if package.category in _INSTALLED_CATEGORIES:
            chosen.setdefault((package.manager, package.name), package)
    return tuple(chosen.values())


def _refuse(packages: Iterable[LockedPackage], *, allow_builds: bool) -> None:
    faults = {package: reason for package in packages if (reason := _fault(package, allow_builds=allow_builds))}
    if faults:
        lines = [f"  `{package.name} {package.version}`: {reason}" for package, reason in faults.items()]
        others = any(_fault(package, allow_builds=True) for package in faults)
        ways = (
            Hint("once environment.yml requires only packages published as archives or wheels", "envforge lock")
            if others
            else Hint("if you trust these source distributions, pass `--allow-builds` to build them on this machine")
        )
        raise EnvforgeError(
            "the lockfile contains packages that can't be installed reproducibly:\n" + "\n".join(lines),
            hint=(ways,),
            code="not-installable",
        )


def _fault(package: LockedPackage, *, allow_builds: bool) -> str | None:
    name = Artifact(package=package, digest=Digest(algorithm="sha256", hex="")).file_name
    if package.url.startswith("git+"):
        return f"it comes from a git repository, `{package.url}`, which has no checksum"
    if package.sha256 is None and package.md5 is None:
        return "the lockfile has no checksum for it"
    if package.manager == "conda":
        return None if name.endswith(_ARCHIVES) else f"expected a `.conda` or `.tar.bz2` file, found `{package.url}`"
    if name.endswith(_SOURCES):
        source = f"expected a wheel, found the source distribution `{name}`, which runs its own code when it is built"
        return None if allow_builds else source
    try:
        found = parse_wheel_filename(name)[0]
    except InvalidWheelFilename as error:
        return str(error)
    wanted = canonicalize_name(package.name)
    return None if found == wanted else f"expected a wheel of `{wanted}`, found `{name}`"


def _digest(package: LockedPackage) -> Digest:
    if package.sha256 is not None:
        return Digest(algorithm="sha256", hex=package.sha256)
    return Digest(algorithm="md5", hex=package.md5 or "")


def _warnings(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    found = []
    weak = sorted(artifact.label for artifact in artifacts if artifact.digest.algorithm == "md5")
    if weak:
        names = ", ".join(weak)
        found.append(f"verified only by MD5, which can be forged, because the lockfile has no SHA-256: {names}")
    built = sorted(artifact.label for artifact in artifacts if artifact.is_source)
    if built:
        found.append(
            f"built from source on this machine, so the result can differ between machines: {', '.join(built)}"
        )
    return tuple(found)


def record_name(artifact: Artifact) -> str:
    """Return the name of a conda archive without its extension: ``jinja2-3.1.6-pyhd8ed1ab_0``."""
    name = artifact.file_name
    return name.removesuffix(".conda").removesuffix(".tar.bz2")


def wheel_of(artifact: Artifact) -> Wheel:
    """Return the name, version, and checksum of a wheel or source distribution.

    The version of a wheel is the one in its file name.
    """
    if artifact.is_source:
        return Wheel(
            name=canonicalize_name(artifact.package.name), version=artifact.package.version, sha256=artifact.digest.hex
        )
    name, version, _, _ = parse_wheel_filename(artifact.file_name)
    return Wheel(name=canonicalize_name(name), version=str(version), sha256=artifact.digest.hex)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The smallest set of changes that makes a complete prefix match a plan."""

    conda: tuple[Artifact, ...]
    conda_kept: tuple[str, ...]
    conda_removed: tuple[str, ...]
    wheels: tuple[Artifact, ...]
    wheels_removed: tuple[str, ...]


def changes(
    plan: Plan,
    journal: Journal | None,
    conda: Mapping[str, Collection[str]],
    wheels: frozenset[str],
    reinstall: frozenset[tuple[Manager, str]] = frozenset(),
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
