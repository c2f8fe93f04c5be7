"""Find packages of a lockfile that contradict each other, or themselves, whatever the environment files request.

A lockfile that is as envforge wrote it has none. For other lockfiles, a bad merge or an edit shows only here.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from msgspec import Struct
from packaging.utils import (
    InvalidSdistFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from envforge.base.urls import show_url
from envforge.lock.lockfile import INPUT_SHA256, LockedPackage, Lockfile, Manager, key_of, python_of
from envforge.lock.match_spec import Spec, matches
from envforge.lock.names import NameMapping
from envforge.lock.platforms import KNOWN_PLATFORMS
from envforge.lock.pylock import NEWEST


class Difference(Struct, frozen=True):
    """One difference between a lockfile and its input: ``wanted`` describes the input, ``found`` the lockfile."""

    code: str
    wanted: str
    found: str
    platform: str | None = None

    def __str__(self) -> str:
        where = f" on {self.platform}" if self.platform else ""
        return f"{self.wanted}{where}, but {self.found}"


def contradictions(lock: Lockfile, channels: Sequence[str]) -> Iterator[Difference]:
    """Yield what is wrong with single rows, and between rows; ``channels`` are those that requests name themselves."""
    for package in lock.packages:
        yield from _of_row(lock, package, (*lock.channels, *channels))
    yield from _two_hashes(lock)
    # conda-lock records the dependencies of a cached archive, which its channel can have corrected since
    are_dependencies_solved = INPUT_SHA256 in dict(lock.custom_metadata)
    for platform in lock.platforms:
        packages = lock.for_platform(platform)
        yield from listed_twice(platform, packages)
        yield from _unsatisfied(
            platform, [p for p in packages if p.manager == "pip" or are_dependencies_solved], packages
        )
        yield from _unfit_wheels(platform, packages)


def _of_row(lock: Lockfile, package: LockedPackage, channels: Sequence[str]) -> Iterator[Difference]:
    label = f"`{package.name} {package.version}`"
    if package.platform not in lock.platforms:
        platforms = f"the lockfile is for {', '.join(lock.platforms)}"
        yield Difference("platform-unlisted", platforms, f"{label} is locked for {package.platform}")
    if package.optional != (package.category != "main"):
        found = f"`optional` is {str(package.optional).lower()}"
        yield Difference("optional", f"{label} has the category `{package.category}`", found, package.platform)
    if package.url.startswith("git+"):  # without a file, and its hash is a commit
        return
    # conda-lock writes only an MD5 if the channel has no SHA-256
    is_md5_enough = package.md5 and INPUT_SHA256 not in dict(lock.custom_metadata)
    digest = package.sha256 or (package.md5 if is_md5_enough else None)
    if digest is None or set(digest) == {"0"}:
        found = "it has only zeros" if digest else "it has none"
        yield Difference("no-sha256", f"{label} needs a SHA-256", found, package.platform)
    url = f"its URL is `{show_url(package.url)}`"
    if not _is_file_of(package):
        yield Difference("other-file", f"{label} is locked", url, package.platform)
    elif package.manager == "conda" and not any(_is_from(package, channel) for channel in channels):
        wanted = f"{label} must come from {', '.join(f'`{show_url(channel)}`' for channel in channels) or 'a channel'}"
        yield Difference("other-channel", wanted, url, package.platform)


def _is_file_of(package: LockedPackage) -> bool:
    """Return whether a file has the name of this package, version, and platform."""
    name = unquote(package.file_name)
    if package.manager == "conda":
        stem = f"{package.name}-{package.version}-"
        subdir = package.url.rpartition("/")[0].rpartition("/")[2]
        return name.startswith(stem) and "-" not in name[len(stem) :] and subdir in {package.platform, "noarch"}
    try:
        found = parse_wheel_filename(name)[:2] if name.endswith(".whl") else parse_sdist_filename(name)
        return found == (canonicalize_name(package.name), Version(package.version))
    except InvalidSdistFilename:  # such as the archive of a commit, which has any name
        return not name.endswith((".conda", ".tar.bz2"))
    except ValueError:
        return False


def _is_from(package: LockedPackage, channel: str) -> bool:
    # a mirror or an alias changes the URL of a channel, but not its last part
    last = channel.rstrip("/").rpartition("/")[2]
    return last == "defaults" or package.url.split("/")[-3:-2] == [last]


def _two_hashes(lock: Lockfile) -> Iterator[Difference]:
    found: dict[str, LockedPackage] = {}
    for package in lock.packages:
        other = found.setdefault(package.url, package)
        if (other.sha256, other.md5) != (package.sha256, package.md5):
            url = f"`{show_url(package.url)}` is one file"
            hashes = f"its hash for {other.platform} is not the one for {package.platform}"
            yield Difference("two-hashes", url, hashes)


def listed_twice(platform: str, packages: Sequence[LockedPackage]) -> Iterator[Difference]:
    """Yield the packages that are listed more than once, except once for each category."""
    found: dict[tuple[Manager, str], list[LockedPackage]] = {}
    for package in packages:
        found.setdefault((package.manager, key_of(package.manager, package.name)), []).append(package)
    for (manager, name), rows in found.items():
        # a package that several categories need is listed once for each
        if len({row.category for row in rows}) < len(rows) or len({row.url for row in rows}) > 1:
            versions = ", ".join(f"`{row.version}`" for row in rows)
            yield Difference("twice", f"`{name}` ({manager}) is one package", f"it is listed as {versions}", platform)


def _unsatisfied(
    platform: str, dependents: Sequence[LockedPackage], packages: Sequence[LockedPackage]
) -> Iterator[Difference]:
    """Yield the dependencies whose locked version doesn't satisfy them."""
    mapping = NameMapping.bundled()
    conda = {p.name: p for p in packages if p.manager == "conda"}
    python = {mapping.to_python(name): p for name, p in conda.items()}
    python |= {canonicalize_name(p.name): p for p in packages if p.manager == "pip"}
    for package in dependents:
        is_conda = package.manager == "conda"
        for name, constraint in package.dependencies:
            found = conda.get(name) if is_conda else python.get(canonicalize_name(name))
            if found is not None and not (_conda_holds if is_conda else _python_holds)(constraint, found):
                text = f"`{package.name} {package.version}` needs `{f'{name} {constraint}'.strip()}`"
                is_build = is_conda and _conda_holds(constraint.partition(" ")[0], found)
                locked = f"`{found.version}{f' {found.build}' if is_build else ''}` is locked"
                yield Difference("dependency-version", text, locked, platform)


def _conda_holds(constraint: str, package: LockedPackage) -> bool:
    from rattler.exceptions import InvalidVersionError, InvalidVersionSpecError  # noqa: PLC0415 - slow to import

    version, _, build = constraint.partition(" ")
    build = "" if build.startswith("^") else build  # a regular expression in a lockfile may never finish
    try:
        return matches(Spec(name=package.name, version=version, build=build), package.version, package.build)
    except (InvalidVersionError, InvalidVersionSpecError):  # only its tool knows what it means
        return True


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
}
_WORD = re.compile(r"(?P<operator><=|>=|<|>|!=|==|)\s*(?P<version>[^\s<>=!~^*]+)")


def _python_holds(constraint: str, package: LockedPackage) -> bool:
    """Return whether a version satisfies a constraint as Poetry prints it, such as ``>=1,<2 || 3.0``."""
    try:
        version = Version(package.version)  # a conda package can have any other
        return any(all(_word_holds(word, version) for word in part.split(",")) for part in constraint.split("||"))
    except ValueError:
        return True


def _word_holds(word: str, version: Version) -> bool:
    match = _WORD.fullmatch(word.strip())
    if match is None:  # `*`, or what only another tool writes
        return True
    other = Version(match["version"])
    own = version if other.local else Version(version.public)
    return _OPERATORS[match["operator"] or "=="](own, other)


def _unfit_wheels(platform: str, packages: Sequence[LockedPackage]) -> Iterator[Difference]:
    """Yield the wheels for another platform or another version of Python."""
    from envforge.lock.index import Target  # noqa: PLC0415 - slow to import

    python = python_of(packages)
    if python is None or platform not in KNOWN_PLATFORMS:
        return
    target = Target(platform=platform, python=python, virtual=NEWEST)
    for package in packages:
        name = unquote(package.file_name)
        if package.manager == "pip" and _is_file_of(package) and name.endswith(".whl") and target.rank(name) is None:
            text = f"`{package.name} {package.version}` must support Python {python}"
            yield Difference("unfit-wheel", text, f"`{name}` is locked", platform)
