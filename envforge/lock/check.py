"""Check whether a lockfile is up to date with environment.yml and virtual-packages.yml.

Nothing is solved or downloaded. The lockfile records the SHA-256 of its input, so the usual case needs no conda-lock;
if the bytes differ, conda-lock's own parser and content hash decide whether the meaning does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from envforge.lock.condalock import Specification, specification
from envforge.lock.inputs import Inputs, read_inputs, virtual_packages_of
from envforge.lock.lockfile import INPUT_SHA256, LockedPackage, Lockfile, read_lockfile
from envforge.lock.previous_lock import recorded_cutoff
from envforge.lock.request import Cutoff


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference between a lockfile and its input: ``wanted`` describes the input, ``found`` the lockfile."""

    code: str
    platform: str | None
    wanted: str
    found: str

    def __str__(self) -> str:
        where = f" on {self.platform}" if self.platform else ""
        return f"{self.wanted}{where}, but {self.found}"


def check_lock(
    environment: Path,
    lockfile: Path,
    *,
    virtual_packages: Path | None = None,
    platforms: tuple[str, ...] = (),
    exclude_newer: Cutoff | None = None,
) -> tuple[Difference, ...]:
    """Return every difference; empty if the lockfile is up to date. Raises ``EnvforgeError`` for unreadable files."""
    inputs = read_inputs(environment, virtual_packages, platforms)
    lock = read_lockfile(lockfile)
    return (*_dates(exclude_newer, lock), *check_inputs(inputs, lock))


def check_inputs(inputs: Inputs, lock: Lockfile) -> tuple[Difference, ...]:
    """Return every difference between a lockfile and its input."""
    differences = tuple(_platforms(inputs, lock))
    if differences or dict(lock.custom_metadata).get(INPUT_SHA256) == inputs.sha256:
        return differences
    return tuple(_meaning(inputs, lock))


def _platforms(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    for platform in inputs.platforms:
        if platform not in lock.platforms or not lock.for_platform(platform):
            yield Difference(
                code="platform-not-locked",
                platform=None,
                wanted=f"platform `{platform}` is requested",
                found="it is not locked",
            )
    for platform in lock.platforms:
        if platform not in inputs.platforms:
            yield Difference(
                code="platform-not-asked",
                platform=None,
                wanted=f"platform `{platform}` is not requested",
                found="it is locked",
            )


def _dates(exclude_newer: Cutoff | None, lock: Lockfile) -> Iterator[Difference]:
    # a lockfile with an earlier date contains nothing that a later date excludes
    recorded = recorded_cutoff(lock)
    if exclude_newer is not None and exclude_newer.at is not None and recorded.at is None:
        found = "the lockfile was created without a date"
    elif exclude_newer is not None and exclude_newer.excludes(recorded.at):
        found = f"the lockfile was created with {recorded}"
    else:
        return
    yield Difference(
        code="exclude-newer", platform=None, wanted=f"packages newer than {exclude_newer} are excluded", found=found
    )


def unmet_requests(platform: str, read: Specification, lock: Lockfile) -> tuple[Difference, ...]:
    """Return the packages whose locked version doesn't match the input."""
    return tuple(one for one in _requests(platform, read, lock) if one.code == "other-version")


def _meaning(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    pip = {platform: inputs.pip_for(platform) for platform in inputs.platforms}
    virtual = virtual_packages_of(inputs, pip)
    with tempfile.TemporaryDirectory(prefix="envforge-check-") as folder:
        read = specification(inputs, virtual.text(), Path(folder))
    recorded = dict(lock.content_hash)
    for platform, content_hash in read.content_hash:
        if recorded.get(platform) == content_hash:
            continue
        found = [*_channels(inputs, lock), *_requests(platform, read, lock)]
        # the content hash also covers what the lockfile doesn't list, such as a looser constraint
        yield from found or [_unnamed(platform, virtual.source)]


def _unnamed(platform: str, virtual_source: str) -> Difference:
    return Difference(
        code="input-changed",
        platform=platform,
        wanted="a version constraint, an index, or a virtual package has changed",
        found=f"the lockfile was solved for the previous input (virtual packages from {virtual_source})",
    )


def _channels(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    if [c for c in inputs.channels if c != "nodefaults"] != list(lock.channels):
        yield Difference(
            code="channels",
            platform=None,
            wanted=f"channels `{' '.join(inputs.channels)}` are requested",
            found=f"the lockfile uses `{' '.join(lock.channels)}`",
        )


def _requests(platform: str, read: Specification, lock: Lockfile) -> Iterator[Difference]:
    locked = {(p.manager, _key(p.manager, p.name)): p for p in lock.for_platform(platform)}
    for request in dict(read.requests)[platform]:
        manager, name = request["manager"], request["name"]
        package = locked.get((manager, _key(manager, name)))
        # a requirement under `pip:` may be met by a conda package, which conda-lock doesn't lock twice
        if package is None and manager == "pip":
            package = locked.get(("conda", _key("conda", name)))
        wanted = f"`{_words(request)}` ({manager}) is requested"
        if package is None:
            yield Difference(code="not-locked", platform=platform, wanted=wanted, found="it is not locked")
        elif not _satisfied(request, package):
            yield Difference(
                code="other-version", platform=platform, wanted=wanted, found=f"`{package.version}` is locked"
            )


def _key(manager: str, name: str) -> str:
    return name.lower() if manager == "conda" else canonicalize_name(name)


def _words(request: Mapping[str, Any]) -> str:
    version = request.get("version") or request.get("url") or ""
    separator = "" if request["manager"] == "pip" else " "
    return f"{request['name']}{separator}{version}".strip()


def _satisfied(request: Mapping[str, Any], package: LockedPackage) -> bool:
    version = request.get("version") or ""
    if version in {"", "*"}:
        return True
    if package.manager == "pip":
        try:
            return SpecifierSet(version).contains(package.version, prereleases=True)
        except InvalidSpecifier:
            return version == package.version
    from rattler import Version, VersionSpec  # noqa: PLC0415 - 0.1 s, needed only if the input has changed

    return VersionSpec(version).matches(Version(package.version))
