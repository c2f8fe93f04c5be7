"""Read and write pylock.toml (PEP 751): the Python packages of a project, for uv and pip.

``[tool.envforge]`` records the SHA-256 of the packages of conda-lock.yml that the file was made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from packaging.markers import InvalidMarker, Marker
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.documents import Document, NonEmpty, Sha256
from envforge.base.files import regular
from envforge.errors import Hint
from envforge.lock.lockfile import LockedPackage, Lockfile, LockfileError
from envforge.lock.platforms import KNOWN_PLATFORMS, is_valid_marker, marker_environment

if TYPE_CHECKING:
    from tomlkit.items import Table

    from envforge.lock.plan import Artifact

PYLOCK = "pylock.toml"
LOCK_SHA256 = "lock-sha256"
CREATED_BY = "envforge"
_ANY_PYTHON = Version("3.12")  # the markers of a platform don't depend on the version
# newer than any real glibc and macOS: `install` compares the requirements of the chosen wheel with the machine
_NEWEST = {"__glibc": "2.99", "__osx": "99.0"}


def is_pylock(path: Path) -> bool:
    """Return whether a file has a name that PEP 751 reserves: ``pylock.toml`` or ``pylock.NAME.toml``."""
    return re.fullmatch(r"pylock\.(?:[^.]+\.)?toml", path.name) is not None


def pylock_of(lockfile: Path) -> Path:
    """Return the path of the pylock.toml that belongs to a conda-lock.yml."""
    return lockfile.with_name(PYLOCK)


def has_own_pylock(lockfile: Path) -> bool:
    """Return whether ``lock --pylock`` wrote a pylock.toml next to a lockfile."""
    try:
        return f"[tool.{CREATED_BY}]" in regular(pylock_of(lockfile)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def lock_sha256(lock: Lockfile) -> str:
    """Return the SHA-256 of the names, versions, and URLs in a lockfile, which comments and metadata don't change."""
    rows = sorted([p.platform, p.manager, p.name, p.version, p.url] for p in lock.packages)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def render_pylock(
    wheels: Mapping[str, Sequence[Artifact]], python: Version | None, *, made_from: str | None = None
) -> str:
    """Return the text of a pylock.toml for the wheels of each platform.

    A package that differs between platforms, or that only some of them have, is listed with a marker for each.
    ``python`` is a version of the only minor release that the wheels are for.
    """
    import tomlkit  # noqa: PLC0415 - slow to import

    document = tomlkit.document()
    document["lock-version"] = "1.0"
    markers = {platform: _marker(platform) for platform in wheels if platform in KNOWN_PLATFORMS}
    if markers:
        document["environments"] = list(markers.values())
    if python is not None:
        document["requires-python"] = f"=={python.major}.{python.minor}.*"
    document["created-by"] = CREATED_BY
    packages = tomlkit.aot()
    for rows in _by_version(wheels).values():
        packages.append(_package(rows, [] if len(rows) == len(wheels) else [markers[name] for name in rows]))
    document["packages"] = packages
    if made_from is not None:
        document["tool"] = {CREATED_BY: {LOCK_SHA256: made_from}}
    return tomlkit.dumps(document)


def _marker(platform: str) -> str:
    values = marker_environment(platform, _ANY_PYTHON)
    return f"sys_platform == '{values['sys_platform']}' and platform_machine == '{values['platform_machine']}'"


def _by_version(wheels: Mapping[str, Sequence[Artifact]]) -> dict[tuple[str, str], dict[str, Artifact]]:
    """Return the file of each platform, by name and version."""
    from envforge.lock.plan import wheel_of  # noqa: PLC0415 - it imports this module

    found: dict[tuple[str, str], dict[str, Artifact]] = {}
    for platform, artifacts in wheels.items():
        for artifact in artifacts:
            wheel = wheel_of(artifact)
            found.setdefault((wheel.name, wheel.version), {})[platform] = artifact
    return found


def _package(rows: Mapping[str, Artifact], markers: Sequence[str]) -> Table:
    import tomlkit  # noqa: PLC0415 - as above

    from envforge.lock.plan import wheel_of  # noqa: PLC0415 - as above

    table = tomlkit.table()
    first = wheel_of(next(iter(rows.values())))
    table["name"], table["version"] = first.name, first.version
    if markers:
        table["marker"] = " or ".join(f"({marker})" if len(markers) > 1 else marker for marker in markers)
    files = tomlkit.aot()
    for artifact in {artifact.package.url: artifact for artifact in rows.values()}.values():
        if artifact.is_source:
            table["sdist"] = _file(artifact)
        else:
            files.append(_file(artifact))
    if files:
        table["wheels"] = files
    return table


def _file(artifact: Artifact) -> Table:
    import tomlkit  # noqa: PLC0415 - as above

    file, hashes = tomlkit.table(), tomlkit.inline_table()
    hashes["sha256"] = artifact.digest.hex
    file["name"] = artifact.file_name
    file["url"] = artifact.package.url
    file["hashes"] = hashes
    return file


# these classes are the format of the file, which has more fields than envforge reads
@dataclass(frozen=True, slots=True)
class _Hashes:
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class _File:
    url: NonEmpty
    hashes: _Hashes

    @property
    def name(self) -> str:
        return unquote(self.url.split("#", 1)[0].rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True)
class _Package:
    name: NonEmpty
    version: NonEmpty
    marker: str = ""
    wheels: tuple[_File, ...] = ()
    sdist: _File | None = None


@dataclass(frozen=True, slots=True)
class _Document:
    requires_python: str
    created_by: str
    packages: tuple[_Package, ...]
    environments: tuple[str, ...] = ()
    tool: dict[str, Any] | None = None


def parse_pylock(text: str, where: str) -> Lockfile:
    """Parse a pylock.toml as a lockfile that has only wheels; ``where`` names it in errors.

    Raises ``LockfileError`` unless it is for one minor version of Python, and has a wheel or a source distribution
    with a SHA-256 for each package, as envforge writes it.
    """
    document = Document(
        damaged=f"the lockfile `{where}` is invalid",
        error=LockfileError,
        code="lockfile-damaged",
        hints=lambda: (
            Hint("to write it again", "envforge lock --pylock"),
            Hint("to install a file of another tool, use that tool"),
        ),
    )
    values = document.read_toml(text, dict[str, Any])
    read = document.convert({key.replace("-", "_"): value for key, value in values.items()}, _Document)
    minor = re.fullmatch(r"==\s*(\d+\.\d+)\.\*", read.requires_python)
    if minor is None:
        raise document.fault("requires-python", "one minor version such as `==3.12.*`", read.requires_python)
    python = Version(minor[1])
    allowed = [_parsed(document, marker, f"environments[{n}]") for n, marker in enumerate(read.environments)]
    platforms = [name for name in KNOWN_PLATFORMS if not allowed or any(_holds(one, name, python) for one in allowed)]
    packages = []
    for number, package in enumerate(read.packages):
        path = f"packages[{number}]"
        marker = _parsed(document, package.marker, f"{path}.marker") if package.marker else None
        chosen = [name for name in platforms if marker is None or _holds(marker, name, python)]
        packages += [_locked(package, name, _chosen(document, package, name, python, path)) for name in chosen]
    recorded = document.convert((read.tool or {}).get(CREATED_BY, {}), dict[str, Any], f"tool.{CREATED_BY}")
    return Lockfile(
        platforms=tuple(platforms),
        channels=(),
        content_hash=(),
        packages=tuple(packages),
        custom_metadata=tuple((str(name), str(value)) for name, value in recorded.items()),
        python=python,
    )


def _parsed(document: Document, text: str, path: str) -> Marker:
    with contextlib.suppress(InvalidMarker):
        marker = Marker(text)
        if is_valid_marker(marker):
            return marker
    raise document.fault(path, "an environment marker", text)


def _holds(marker: Marker, platform: str, python: Version) -> bool:
    return bool(marker.evaluate({**marker_environment(platform, python), "extra": ""}))


def _chosen(document: Document, package: _Package, platform: str, python: Version, path: str) -> _File:
    """Return the best wheel of a package for a platform, or else its source distribution."""
    from envforge.lock.index import Target  # noqa: PLC0415 - slow to import, and most lockfiles are another format

    target = Target(platform=platform, python=python, virtual=_NEWEST)
    ranked = [(rank, file) for file in package.wheels if (rank := target.rank(file.name)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    if package.sdist is None:
        found = ", ".join(file.name for file in package.wheels)
        raise document.fault(f"{path}.wheels", f"a wheel for {platform} and Python {python}", found or None)
    return package.sdist


def _locked(package: _Package, platform: str, file: _File) -> LockedPackage:
    return LockedPackage(
        name=canonicalize_name(package.name),
        version=package.version,
        manager="pip",
        platform=platform,
        url=file.url,
        sha256=file.hashes.sha256,
        md5=None,
        category="main",
        optional=False,
        dependencies=(),
    )


def is_own(text: str) -> bool:
    """Return whether envforge wrote a pylock.toml, by ``lock --pylock`` or by ``export pylock``."""
    return re.search(rf'^created-by = "{CREATED_BY}"$', text, re.MULTILINE) is not None
