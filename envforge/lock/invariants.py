"""Check what must be true of a lockfile before it is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envforge.base.urls import has_secrets, show_url, without_user
from envforge.lock.lockfile import LockedPackage, Lockfile
from envforge.lock.names import NameMapping

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectations:
    """What the environment requests, and what the indexes list.

    ``pip`` has the requirements of each platform, ``torch_urls`` every URL on the PyTorch index, and ``family`` the
    names that may come only from there. ``digests`` has the SHA-256 of each offered wheel by URL, ``optional`` the
    names that a wheel needs only for an extra, and ``asked`` the URLs that the user specified.
    """

    platforms: tuple[str, ...]
    pip: tuple[tuple[str, tuple[Requirement, ...]], ...]
    digests: tuple[tuple[str, str], ...]
    torch_urls: frozenset[str]
    family: frozenset[str]
    optional: tuple[tuple[str, frozenset[str]], ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One invalid property of a lockfile."""

    code: str
    message: str


def audit(lock: Lockfile, expected: Expectations, mapping: NameMapping) -> tuple[Problem, ...]:
    """Return every problem of a lockfile; if there is none, it may be written."""
    problems = [*_platforms(lock, expected)]
    for platform in expected.platforms:
        packages = lock.for_platform(platform)
        problems += _requested(platform, packages, dict(expected.pip).get(platform, ()))
        problems += _owners(platform, packages, mapping)
        problems += _dependencies(packages, dict(expected.optional), mapping)
    for package in lock.packages:
        problems += _file(package, expected)
    return tuple(problems)


def _platforms(lock: Lockfile, expected: Expectations) -> Iterator[Problem]:
    for platform in expected.platforms:
        if platform not in lock.platforms or not lock.for_platform(platform, "conda"):
            yield Problem(code="platform-missing", message=f"no packages for `{platform}`")


def _requested(
    platform: str, packages: tuple[LockedPackage, ...], requirements: tuple[Requirement, ...]
) -> Iterator[Problem]:
    found = {canonicalize_name(p.name): p for p in packages if p.manager == "pip"}
    provided = {canonicalize_name(p.name) for p in packages if p.manager == "conda"}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        package = found.get(name)
        if package is None and name not in provided:
            yield Problem(code="missing", message=f"`{requirement}` is not locked for {platform}")
        elif package is not None and not requirement.specifier.contains(package.version, prereleases=True):
            text = f"`{requirement}` is requested on {platform}, but `{package.version}` is locked"
            yield Problem(code="other-version", message=text)


def _owners(platform: str, packages: tuple[LockedPackage, ...], mapping: NameMapping) -> Iterator[Problem]:
    counted = Counter((p.manager, p.name if p.manager == "conda" else canonicalize_name(p.name)) for p in packages)
    for (manager, name), number in counted.items():
        if number > 1:
            yield Problem(
                code="twice", message=f"`{name}` is listed {number} times among the {manager} packages of {platform}"
            )
    # a conda package without Python may share its name with an unrelated Python package
    python_packages = {mapping.to_python(p.name): p for p in packages if p.manager == "conda" and _needs_python(p)}
    for package in packages:
        owner = python_packages.get(canonicalize_name(package.name)) if package.manager == "pip" else None
        if owner is not None:
            names = f"pip {package.version} and conda `{owner.name} {owner.version}`"
            text = f"`{package.name}` has two owners on {platform}: {names}"
            yield Problem(code="two-owners", message=text)


def _dependencies(
    packages: tuple[LockedPackage, ...], optional: dict[str, frozenset[str]], mapping: NameMapping
) -> Iterator[Problem]:
    conda = {p.name for p in packages if p.manager == "conda"}
    python = {canonicalize_name(p.name) for p in packages if p.manager == "pip"} | {mapping.to_python(n) for n in conda}
    for package in packages:
        for name, wanted in package.dependencies:
            if name.startswith("__"):  # virtual packages are properties of the machine
                continue
            is_there = name in conda if package.manager == "conda" else canonicalize_name(name) in python
            if not is_there and canonicalize_name(name) not in optional.get(package.name, frozenset()):
                label = f"`{package.name} {package.version}` ({package.platform})"
                text = f"{label} needs `{name} {wanted}`, which is not locked"
                yield Problem(code="dependency-missing", message=text)


def _file(package: LockedPackage, expected: Expectations) -> Iterator[Problem]:
    label = f"`{package.name} {package.version}` ({package.platform})"
    if package.sha256 is None or set(package.sha256) == {"0"}:  # zeros are `index.UNKNOWN_SHA256`
        yield Problem(code="no-sha256", message=f"{label} has no SHA-256")
    if has_secrets(package.url):
        yield Problem(code="credentials", message=f"the URL of {label} contains credentials")
    elif not _is_public(package.url, expected.asked):
        yield Problem(
            code="address", message=f"{label} comes from `{show_url(package.url)}`, which other machines can't reach"
        )
    if package.manager != "pip":
        return
    stated = dict(expected.digests).get(package.url)
    if stated != package.sha256:
        yield Problem(
            code="hash-mismatch",
            message=f"{label}: expected SHA-256 `{stated}` (package index), found `{package.sha256}` (lockfile)",
        )
    if canonicalize_name(package.name) in expected.family and package.url not in expected.torch_urls:
        yield Problem(
            code="torch-index",
            message=f"{label} comes from `{show_url(package.url)}`, which the PyTorch index doesn't list",
        )


def _is_public(url: str, asked: tuple[str, ...]) -> bool:
    # other machines can reach https URLs, and any URL that the user specified for them
    parts = urlsplit(url)
    if parts.scheme == "https" and _LOOPBACK.fullmatch(parts.netloc) is None:
        return True
    origins = {urlsplit(without_user(address))[:2] for address in asked if address.startswith("http")}
    return parts[:2] in origins or any(url.startswith(f"{address.rstrip('/')}/") for address in asked)


def _needs_python(package: LockedPackage) -> bool:
    return any(name == "python" for name, _ in package.dependencies)
