"""Compare a lockfile with the requests of its environment files, and check what must be true of every lockfile.

Nothing is solved or downloaded. A lockfile records the SHA-256 of its input. If that differs, conda-lock's content hash
of the requests decides whether their meaning does, too.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.urls import has_secrets, show_url, without_user
from envforge.lock.condalock import content_hashes
from envforge.lock.consistency import Difference, contradictions, listed_twice
from envforge.lock.inputs import Inputs, Requested, read_inputs, virtual_packages_of
from envforge.lock.lockfile import (
    INPUT_SHA256,
    LockedPackage,
    Lockfile,
    Manager,
    key_of,
    python_of,
    reached,
    read_lockfile,
    variables_text,
)
from envforge.lock.match_spec import matches
from envforge.lock.names import NameMapping
from envforge.lock.request import Cutoff, recorded_cutoff


def check_lock(
    environment: Path,
    lockfile: Path,
    *,
    platforms: tuple[str, ...] = (),
    exclude_newer: Cutoff | None = None,
    others: tuple[Path, ...] = (),
    categories: tuple[str, ...] = (),
) -> tuple[Difference, ...]:
    """Return every difference; empty if the lockfile is up to date. Raises ``EnvforgeError`` for unreadable files."""
    inputs = read_inputs(environment, None, platforms, others=others, categories=categories)
    lock = read_lockfile(lockfile)
    return (*_dates(exclude_newer, lock), *check_inputs(inputs, lock))


def check_inputs(inputs: Inputs, lock: Lockfile) -> tuple[Difference, ...]:
    """Return every difference between a lockfile and its input."""
    differences = (*_platforms(inputs, lock), *other_categories(inputs, lock), *_sources(inputs, lock))
    if differences:
        # with other platforms or files, every further difference would only repeat these
        return differences
    content = list(_variables(inputs, lock))
    content += [d for p in inputs.platforms for d in (*unmet_requests(inputs, lock, p), *_missing(lock, p))]
    # a merge or an editor can change anything, and no hash of the input shows that
    if not lock.is_as_written:
        content += [d for p in inputs.platforms for d in _misplaced(inputs, lock, p)]
        channels = dict.fromkeys(entry.spec.channel for entry in inputs.entries if entry.spec and entry.spec.channel)
        content += contradictions(lock, list(channels))
    if dict(lock.custom_metadata).get(INPUT_SHA256) != inputs.sha256:
        content = [*_meaning(inputs, lock, is_explained=bool(content)), *content]
    if lock.was_edited and not content:
        content.append(Difference("edited", "the lockfile must be as envforge wrote it", "it was edited"))
    return tuple(content)


def _platforms(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    for platform in inputs.platforms:
        if platform not in lock.platforms or not lock.for_platform(platform):
            yield Difference("platform-not-locked", f"platform `{platform}` is requested", "it is not locked")
    for platform in lock.platforms:
        if platform not in inputs.platforms:
            yield Difference("platform-not-asked", f"platform `{platform}` is not requested", "it is locked")


def other_categories(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    """Yield the difference between the categories to which a request and a lockfile are limited."""
    if inputs.categories != lock.categories:
        yield Difference("categories", f"{_named(inputs.categories)} requested", f"{_named(lock.categories)} locked")


def _sources(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    # the number, because conda-lock and a moved lockfile have other paths
    if INPUT_SHA256 in dict(lock.custom_metadata) and lock.sources and len(lock.sources) != len(inputs.files):
        names = ", ".join(f"`{file.path}`" for file in inputs.files)
        yield Difference(
            "sources",
            f"the environment files {names} are requested",
            f"the lockfile was created from {', '.join(f'`{source}`' for source in lock.sources)}",
        )


def _named(categories: Sequence[str]) -> str:
    return f"only the categories {', '.join(categories)} are" if categories else "all categories are"


def _dates(exclude_newer: Cutoff | None, lock: Lockfile) -> Iterator[Difference]:
    # a lockfile with an earlier date contains nothing that a later date excludes
    recorded = recorded_cutoff(lock)
    if exclude_newer is not None and exclude_newer.at is not None and recorded.at is None:
        found = "the lockfile was created without a date"
    elif exclude_newer is not None and exclude_newer.excludes(recorded.at):
        found = f"the lockfile was created with {recorded}"
    else:
        return
    yield Difference("exclude-newer", f"packages newer than {exclude_newer} are excluded", found)


def _meaning(inputs: Inputs, lock: Lockfile, *, is_explained: bool) -> Iterator[Difference]:
    virtual = virtual_packages_of(inputs)
    text: str | None = virtual.text()
    source = virtual.source
    is_foreign = INPUT_SHA256 not in dict(lock.custom_metadata)
    if inputs.virtual_packages is None and is_foreign:
        text, source = None, "the defaults of conda-lock"  # which made this lockfile
    pythons = {platform: python_of(lock.for_platform(platform)) for platform in inputs.platforms}
    with tempfile.TemporaryDirectory(prefix="envforge-check-") as folder:
        hashes = content_hashes(inputs, text, pythons, Path(folder), is_foreign=is_foreign)
    recorded = dict(lock.content_hash)
    changed = [platform for platform, known in hashes.items() if recorded.get(platform) not in known]
    if changed:
        channels = list(_channels(inputs, lock))
        yield from channels
        # the hashes also cover what the lockfile doesn't list, such as a looser constraint
        if not channels and not is_explained:
            yield from (_unnamed(platform, source) for platform in changed)


def _unnamed(platform: str, virtual_source: str) -> Difference:
    return Difference(
        "input-changed",
        "a version constraint, an index, or a virtual package has changed",
        f"the lockfile was solved for the previous input (virtual packages from {virtual_source})",
        platform,
    )


def _channels(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    if [c for c in inputs.channels if c != "nodefaults"] != list(lock.channels):
        yield Difference(
            "channels",
            f"channels `{' '.join(map(show_url, inputs.channels))}` are requested",
            f"the lockfile uses `{' '.join(map(show_url, lock.channels))}`",
        )


def _variables(inputs: Inputs, lock: Lockfile) -> Iterator[Difference]:
    if inputs.variables != lock.variables:
        yield Difference(
            "variables",
            f"the variables `{variables_text(inputs.variables) or '{}'}` are requested",
            f"the lockfile has `{variables_text(lock.variables) or '{}'}`",
        )


def unmet_requests(inputs: Inputs, lock: Lockfile, platform: str) -> Iterator[Difference]:
    """Yield the requests that no package of the lockfile satisfies, and the packages that no request explains."""
    packages = lock.for_platform(platform)
    locked: dict[tuple[Manager, str], LockedPackage] = {}
    for each in packages:
        locked.setdefault((each.manager, key_of(each.manager, each.name)), each)
    wanted = [one for one in inputs.wanted(platform, python_of(packages)) if not one.entries[0].is_virtual]
    mapping = NameMapping.bundled()
    conda = [package for package in packages if package.manager == "conda"]
    for one in wanted:
        package = locked.get((one.entries[0].section, one.name))
        if package is None and one.requirement is not None:
            # conda-lock doesn't lock a wheel of a package that conda provides
            package = next((p for p in conda if mapping.to_python(p.name) == one.name), None)
        text = f"`{one.spec or one.requirement}` ({one.entries[0].section}) is requested"
        if package is None:
            yield Difference("not-locked", text, "it is not locked", platform)
        elif not _is_met(one, package):
            found = f"`{_label(one, package)}` is locked"
            yield Difference("other-version", text, found, platform)
    for extra in _unexplained(packages, wanted):
        text = f"neither a request nor a dependency needs `{extra.name}` ({extra.manager})"
        yield Difference("not-requested", text, f"`{extra.version}` is locked", platform)


def _label(one: Requested, package: LockedPackage) -> str:
    if one.requirement is not None and one.requirement.url:
        return show_url(package.url)
    if one.spec is not None and one.spec.channel:
        return show_url(package.url)
    return f"{package.version} {package.build}" if one.spec is not None and one.spec.build else package.version


def _is_met(one: Requested, package: LockedPackage) -> bool:
    if one.requirement is not None:
        return _is_met_by(one.requirement, package)
    if one.spec is None or not matches(one.spec, package.version, package.build):
        return False
    # a mirror or an alias changes the URL of a channel, but not its last part
    channel = one.spec.channel.rstrip("/").rpartition("/")[2]
    return not channel or f"/{channel}/" in package.url


def _is_met_by(requirement: Requirement, package: LockedPackage) -> bool:
    if requirement.url:
        return requirement.url.split("#", 1)[0] == package.url.split("#", 1)[0]
    try:
        return requirement.specifier.contains(Version(package.version), prereleases=True)
    except ValueError:  # of a conda package
        return not str(requirement.specifier)


def _unexplained(packages: Sequence[LockedPackage], wanted: Sequence[Requested]) -> list[LockedPackage]:
    """Return the packages that no request leads to, through any number of dependencies."""
    # conda-lock adds pip if there are wheels
    names = [one.name for one in wanted] + ["pip"] * any(one.requirement for one in wanted)
    explained = {id(package) for package in reached(packages, names)}
    return [package for package in packages if id(package) not in explained]


def _misplaced(inputs: Inputs, lock: Lockfile, platform: str) -> Iterator[Difference]:
    """Yield the packages that are locked in another category than the one that requests them."""
    packages = lock.for_platform(platform)
    wanted = [one for one in inputs.wanted(platform, python_of(packages)) if not one.entries[0].is_virtual]
    known = dict.fromkeys(["main", *(one.category for one in wanted)])
    reach = {
        category: {id(p) for p in reached(packages, [one.name for one in wanted if one.category == category])}
        for category in known
    }
    for one in wanted:
        rows = [p for p in packages if (p.manager, key_of(p.manager, p.name)) == (one.entries[0].section, one.name)]
        # if two categories need a package, it is listed in one of them: by envforge in `main`, by conda-lock in any
        is_main = one.category == "main" and INPUT_SHA256 in dict(lock.custom_metadata)
        stated = {entry.category for entry in one.entries}
        names = ["main"] if is_main else [c for c in known if c in stated or any(id(row) in reach[c] for row in rows)]
        if rows and not any(row.category in names for row in rows):
            text = f"`{one.name}` ({rows[0].manager}) is requested in the category `{one.category}`"
            yield Difference("other-category", text, f"it is locked in `{rows[0].category}`", platform)
    for package in packages:
        if package.category not in known:
            text = f"the categories {', '.join(f'`{name}`' for name in known)} are requested"
            yield Difference("other-category", text, f"`{package.name}` is locked in `{package.category}`", platform)


_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


class Expectations(Struct, frozen=True, kw_only=True):
    """What the indexes list.

    ``torch_urls`` has every URL on the PyTorch index, and ``family`` the names that may come only from there.
    ``digests`` has the SHA-256 of each offered wheel by URL, and ``asked`` the URLs that the user specified.
    """

    digests: Mapping[str, str]
    torch_urls: frozenset[str]
    family: frozenset[str]
    asked: tuple[str, ...]


class Problem(Struct, frozen=True):
    """One invalid property of a lockfile."""

    code: str
    message: str


def audit(lock: Lockfile, inputs: Inputs, expected: Expectations, mapping: NameMapping) -> tuple[Problem, ...]:
    """Return every problem of a new lockfile; if there is none, it may be written."""
    problems: list[Problem] = []
    for platform in inputs.platforms:
        packages = lock.for_platform(platform)
        if platform not in lock.platforms or not any(package.manager == "conda" for package in packages):
            problems.append(Problem("platform-missing", f"no packages for `{platform}`"))
        unmet = (*unmet_requests(inputs, lock, platform), *_missing(lock, platform), *listed_twice(platform, packages))
        problems += [Problem(one.code, str(one)) for one in unmet]
        problems += _owners(platform, packages, mapping)
    for package in lock.packages:
        problems += _file(package, expected)
    return tuple(problems)


def _owners(platform: str, packages: tuple[LockedPackage, ...], mapping: NameMapping) -> Iterator[Problem]:
    # a conda package without Python may share its name with an unrelated Python package
    python_packages = {mapping.to_python(p.name): p for p in packages if p.manager == "conda" and needs_python(p)}
    for package in packages:
        owner = python_packages.get(canonicalize_name(package.name)) if package.manager == "pip" else None
        if owner is not None:
            names = f"pip {package.version} and conda `{owner.name} {owner.version}`"
            text = f"`{package.name}` has two owners on {platform}: {names}"
            yield Problem("two-owners", text)


def _missing(lock: Lockfile, platform: str) -> Iterator[Difference]:
    """Yield the dependencies of locked packages that are not locked."""
    packages, mapping = lock.for_platform(platform), NameMapping.bundled()
    conda = {p.name for p in packages if p.manager == "conda"}
    python = {canonicalize_name(p.name) for p in packages if p.manager == "pip"} | {mapping.to_python(n) for n in conda}
    # conda-lock can list dependencies of a wheel that only an extra needs; `lock` leaves those out
    has_extras = INPUT_SHA256 not in dict(lock.custom_metadata)
    for package in packages:
        is_conda = package.manager == "conda"
        for name, constraint in package.dependencies:
            if name.startswith("__"):  # virtual packages are properties of the machine
                continue
            if not (name in conda if is_conda else has_extras or canonicalize_name(name) in python):
                text = f"`{package.name} {package.version}` needs `{f'{name} {constraint}'.strip()}`"
                yield Difference("dependency-missing", text, "it is not locked", platform)


def _file(package: LockedPackage, expected: Expectations) -> Iterator[Problem]:
    label = f"`{package.name} {package.version}` ({package.platform})"
    if package.sha256 is None or set(package.sha256) == {"0"}:  # zeros are `index.UNKNOWN_SHA256`
        yield Problem("no-sha256", f"{label} has no SHA-256")
    if has_secrets(package.url):
        yield Problem("credentials", f"the URL of {label} contains credentials")
    elif not _is_public(package.url, expected.asked):
        yield Problem("address", f"{label} comes from `{show_url(package.url)}`, which other machines can't reach")
    if package.manager != "pip":
        return
    stated = expected.digests.get(package.url)
    if stated != package.sha256:
        yield Problem(
            "hash-mismatch",
            f"{label}: expected SHA-256 `{stated}` (package index), found `{package.sha256}` (lockfile)",
        )
    if canonicalize_name(package.name) in expected.family and package.url not in expected.torch_urls:
        text = f"{label} comes from `{show_url(package.url)}`, which the PyTorch index doesn't list"
        yield Problem("torch-index", text)


def _is_public(url: str, asked: tuple[str, ...]) -> bool:
    # other machines can reach https URLs, and any URL that the user specified for them
    parts = urlsplit(without_user(url))
    if parts.scheme == "https" and _LOOPBACK.fullmatch(parts.netloc) is None:
        return True
    origins = {urlsplit(without_user(address))[:2] for address in asked if address.startswith("http")}
    return parts[:2] in origins or any(url.startswith(f"{address.rstrip('/')}/") for address in asked)


def needs_python(package: LockedPackage) -> bool:
    """Return whether a conda package contains Python code, because it depends on Python."""
    return any(name == "python" for name, _ in package.dependencies)
