"""Read and write pylock.toml (PEP 751): the Python packages of a project, for uv and pip.

``[tool.envforge]`` records the name of the conda-lock.yml that the file was made from, the SHA-256 of its packages and
variables, the environment variables, the categories of the packages, and the SHA-256 of the content of this file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from msgspec import Struct, field
from packaging.markers import Marker
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from envforge.base.documents import Document, NonEmpty, Sha256
from envforge.base.urls import show_url
from envforge.errors import Hint, printable
from envforge.lock.lockfile import (
    CATEGORIES,
    VARIABLES,
    LockedPackage,
    Lockfile,
    LockfileError,
    VariableName,
    VariableValue,
    check_package_url,
    file_name_of,
    text_of,
    variables_text,
)
from envforge.lock.platforms import KNOWN_PLATFORMS, marker_environment
from envforge.lock.project import LOCK_FILE, PYLOCK, VARIANTS_DIRECTORY, lock_command

if TYPE_CHECKING:
    from tomlkit.items import Table

    from envforge.lock.index import Target
    from envforge.lock.plan import Artifact

LOCK_SHA256 = "sha256"
_CONTENT_SHA256 = "content_sha256"
CREATED_BY = "envforge"
HOW_TO_CHANGE = "To change it, edit environment.yml, then run"  # in the header of ``lock --pylock``, not of exports
_MOST_ENVIRONMENTS = 100  # envforge writes one for each platform
_ANY_PYTHON = Version("3.12")  # the markers of a platform don't depend on the version
# newer than any real glibc and macOS: `install` compares the requirements of the chosen wheel with the machine
NEWEST = {"__glibc": "2.99", "__osx": "99.0"}


def pylock_of(lockfile: Path) -> Path:
    """Return the path of the pylock.toml next to a lockfile.

    A variant is ``pylock.VARIANT.toml``, and a lockfile with another name than conda-lock.yml is ``pylock.NAME.toml``.
    """
    folder = lockfile.absolute().parent
    stem = lockfile.stem.replace(Path(LOCK_FILE).stem, "")
    if lockfile.name == LOCK_FILE and folder.parent.name == VARIANTS_DIRECTORY:
        stem = folder.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")
    return lockfile.with_name(f"pylock.{name}.toml" if name else PYLOCK)


def lockfile_of(pylock: Path) -> Path:
    """Return the path of the lockfile that a pylock.toml was made from; it may not exist."""
    found = re.search(r'^lockfile = "(?!\.{1,2}")([^"/\\\x00-\x1f]+)"$', text_of(pylock), re.MULTILINE)
    return pylock.with_name(found[1] if found else LOCK_FILE)


def has_own_pylock(lockfile: Path) -> bool:
    """Return whether ``lock --pylock`` wrote the pylock.toml next to a lockfile, even if it was damaged since."""
    path = pylock_of(lockfile)
    return path.exists() and is_of_lock(text_of(path))


def is_of_lock(text: str) -> bool:
    """Return whether ``lock --pylock`` wrote a pylock.toml, by any trace that an edit or a bad merge leaves of it."""
    return not text.strip() or HOW_TO_CHANGE in text.partition("\n")[0] or f"[tool.{CREATED_BY}]" in text


def lock_sha256(lock: Lockfile) -> str:
    """Return the SHA-256 of the packages and environment variables in a lockfile, whatever its comments are."""
    rows = sorted([p.platform, p.manager, p.name, p.version, p.url] for p in lock.packages)
    return hashlib.sha256(json.dumps([rows, lock.variables]).encode()).hexdigest()


def own_table(lockfile: Path, lock: Lockfile, categories: Sequence[str] = ("main",)) -> dict[str, Any]:
    """Return what ``[tool.envforge]`` records of the lockfile that a pylock.toml is made from."""
    table: dict[str, Any] = {"lockfile": lockfile.name, LOCK_SHA256: lock_sha256(lock)}
    table |= {"categories": list(categories)} if list(categories) != ["main"] else {}
    return {**table, **({"variables": dict(lock.variables)} if lock.variables else {})}


def render_pylock(
    wheels: Mapping[str, Sequence[Artifact]], python: Version | None, own: Mapping[str, Any] | None = None
) -> str:
    """Return the text of a pylock.toml for the wheels of each platform.

    A package that differs between platforms, or that only some of them have, is listed with a marker for each.
    ``python`` is a version of the only minor release that the wheels are for, and ``own`` is ``[tool.envforge]``.
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
    if own is not None:
        digest = _content_sha256({**document.unwrap(), "tool": {CREATED_BY: own}})
        document["tool"] = {CREATED_BY: {**own, _CONTENT_SHA256: digest}}
    return tomlkit.dumps(document)


def _content_sha256(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all values of a file but itself, to find edits that leave the file valid."""
    own = {name: value for name, value in values["tool"][CREATED_BY].items() if name != _CONTENT_SHA256}
    text = json.dumps({**values, "tool": own}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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
class _PylockHashes(Struct, frozen=True):
    sha256: Sha256


class _File(Struct, frozen=True):
    url: NonEmpty
    hashes: _PylockHashes
    name: str = ""

    @property
    def file_name(self) -> str:
        return unquote(file_name_of(self.url))


class _PylockPackage(Struct, frozen=True):
    name: NonEmpty
    version: NonEmpty
    marker: str = ""
    wheels: tuple[_File, ...] = ()
    sdist: _File | None = None
    # what envforge never writes, and would have to honor
    vcs: None = None
    directory: None = None
    archive: None = None


class _Own(Struct, frozen=True):
    sha256: str = ""
    content_sha256: str | None = None
    categories: tuple[str, ...] = ("main",)
    variables: dict[VariableName, VariableValue] = field(default_factory=dict)


class _Tool(Struct, frozen=True):
    envforge: _Own = _Own()


class _PylockDocument(Struct, frozen=True):
    packages: tuple[_PylockPackage, ...]
    environments: tuple[str, ...] = ()
    tool: _Tool = _Tool()


_NOTHING = type(None)
# names with a dash, which no field of a class can have; the last three would select packages
_FIELDS: Mapping[str, Any] = {
    "lock-version": Literal["1.0"],
    "requires-python": str,
    "extras": _NOTHING,
    "dependency-groups": _NOTHING,
    "default-groups": _NOTHING,
}


def parse_pylock(text: str, where: str) -> Lockfile:
    """Parse a pylock.toml as a lockfile that has only wheels; ``where`` names it in errors.

    Raises ``LockfileError`` unless it is for one minor version of Python, and has a wheel or a source distribution
    with a SHA-256 for each package, as envforge writes it.
    """
    document = Document(
        damaged=f"the lockfile `{where}` is invalid",
        error=LockfileError,
        code="lockfile-damaged",
        hints=lambda: (Hint("to write it again", lock_command(Path(where)) or "envforge lock --pylock"),),
    )
    values = document.read_toml(text, dict[str, Any])
    _refuse_foreign(document, values, where)
    for name, type_ in _FIELDS.items():
        document.convert(values.get(name), type_, name)
    read = document.convert(values, _PylockDocument)
    minor = re.fullmatch(r"==\s*([0-9]{1,3}\.[0-9]{1,3})\.\*", values["requires-python"])
    if minor is None:
        raise document.fault("requires-python", "one minor version such as `==3.12.*`", values["requires-python"])
    if len(read.environments) > _MOST_ENVIRONMENTS:
        raise document.fault("environments", f"at most {_MOST_ENVIRONMENTS} markers", str(len(read.environments)))
    python = Version(minor[1])
    allowed = [
        name
        for number, marker in enumerate(read.environments)
        for name in KNOWN_PLATFORMS
        if _holds(document, marker, name, python, f"environments[{number}]")
    ]
    platforms = tuple(name for name in KNOWN_PLATFORMS if name in allowed or not read.environments)
    packages: dict[tuple[str, str], LockedPackage] = {}
    for number, package in enumerate(read.packages):
        path = f"packages[{number}]"
        document.convert(values["packages"][number].get("requires-python"), _NOTHING, f"{path}.requires-python")
        for locked in _of_package(document, package, platforms, python, path):
            if (locked.platform, locked.name) in packages:
                raise document.fault(path, f"one package `{locked.name}` for {locked.platform}", "another one")
            packages[locked.platform, locked.name] = locked
    own = read.tool.envforge
    return Lockfile(
        platforms=platforms,
        channels=(),
        content_hash=(),
        packages=tuple(packages.values()),
        custom_metadata=(
            (LOCK_SHA256, own.sha256),
            (VARIABLES, variables_text([*own.variables.items()]) or "{}"),
            (CATEGORIES, ",".join(own.categories)),
        ),
        python=python,
        # earlier versions recorded no checksum of the content
        was_edited=own.content_sha256 is not None and own.content_sha256 != _content_sha256(values),
    )


def _refuse_foreign(document: Document, values: Mapping[str, Any], where: str) -> None:
    """Raise ``LockfileError`` for a file of another tool, with the commands that install it."""
    creator = document.convert(values.get("created-by"), NonEmpty, "created-by")
    tools = values.get("tool")
    if creator != CREATED_BY and isinstance(tools, dict) and CREATED_BY in tools:
        raise document.fault("created-by", f"`{CREATED_BY}`", creator)
    if creator != CREATED_BY:
        raise LockfileError(
            f"`{where}` was created by `{printable(creator)}`, but envforge reads only a pylock.toml of its own",
            hint=(
                Hint("to install it with uv", f"uv pip sync {shlex.quote(where)}"),
                Hint("to install it with pip", f"python -m pip install -r {shlex.quote(where)}"),
            ),
            code="lockfile-foreign",
        )


def _holds(document: Document, marker: str, platform: str, python: Version, path: str) -> bool:
    try:
        return _evaluate(marker, platform, python)
    except (ValueError, KeyError) as error:  # an invalid marker, or one of a variable such as `extras`
        raise document.fault(path, "an environment marker for platforms and Python versions", marker) from error


@lru_cache(maxsize=10_000)
def _evaluate(marker: str, platform: str, python: Version) -> bool:
    return bool(Marker(marker).evaluate({**marker_environment(platform, python), "extra": ""}))


def _of_package(
    document: Document, package: _PylockPackage, platforms: Sequence[str], python: Version, path: str
) -> Iterator[LockedPackage]:
    """Yield the package for each platform that its marker selects."""
    for place, file in [("sdist", package.sdist), *((f"wheels[{n}]", file) for n, file in enumerate(package.wheels))]:
        if file is not None:
            _check_file(document, package, file, f"{path}.{place}")
    for platform in platforms:
        if not package.marker or _holds(document, package.marker, platform, python, f"{path}.marker"):
            yield _locked(package, platform, _chosen(document, package, platform, python, path))


def _check_file(document: Document, package: _PylockPackage, file: _File, path: str) -> None:
    """Raise ``LockfileError`` if uv and pip would install something else from this entry than envforge."""
    try:
        check_package_url(file.url)
    except ValueError as error:
        raise document.fault(f"{path}.url", f"a URL ({error})", show_url(file.url)) from error
    if file.name not in {"", file.file_name}:
        raise document.fault(f"{path}.name", f"`{file.file_name}`, as in its URL", file.name)
    try:
        found = parse_wheel_filename(file.file_name)[:2] if path.endswith("]") else None
        is_same = found in {None, (canonicalize_name(package.name), Version(package.version))}
    except ValueError as error:
        raise document.fault(f"{path}.name", f"a wheel ({error})", file.file_name) from error
    if not is_same:
        raise document.fault(f"{path}.name", f"a wheel of `{package.name} {package.version}`", file.file_name)


@lru_cache
def _target(platform: str, python: Version) -> Target:
    """Return the target, which takes a millisecond to find its tags, once for all packages."""
    from envforge.lock.index import Target  # noqa: PLC0415 - slow to import, and most lockfiles are another format

    return Target(platform=platform, python=python, virtual=NEWEST)


def _chosen(document: Document, package: _PylockPackage, platform: str, python: Version, path: str) -> _File:
    """Return the best wheel of a package for a platform, or else its source distribution."""
    target = _target(platform, python)
    ranked = [(rank, file) for file in package.wheels if (rank := target.rank(file.file_name)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    if package.sdist is None:
        found = ", ".join(file.file_name for file in package.wheels)
        raise document.fault(f"{path}.wheels", f"a wheel for {platform} and Python {python}", found or None)
    return package.sdist


def _locked(package: _PylockPackage, platform: str, file: _File) -> LockedPackage:
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
