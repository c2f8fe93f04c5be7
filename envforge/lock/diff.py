"""Compare two lockfiles, from files or from git revisions.

Order, comments, and checksums of the input are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.urls import show_url
from envforge.lock.lockfile import EXCLUDE_NEWER, LockedPackage, Lockfile, Manager, Requirements
from envforge.lock.needs import requirements_of
from envforge.machine.values import driver_text
from envforge.pytorch.matrix import Matrix

ChangeKind = Literal["added", "removed", "changed"]


class Pinned(Struct, frozen=True, kw_only=True):
    """One locked package. ``build`` is the conda build string, or ``None`` for a wheel."""

    version: str
    build: str | None
    url: str
    checksum: str
    sha256: str | None
    category: str

    def __str__(self) -> str:
        return f"{self.version} {self.build}" if self.build else self.version


class Change(Struct, frozen=True, kw_only=True):
    """One package that differs. ``what`` is the first of version, build, file, URL, and category that differs."""

    name: str
    manager: Manager
    kind: ChangeKind
    what: str
    before: Pinned | None
    after: Pinned | None


class Shift(Struct, frozen=True, kw_only=True):
    """One requirement on the machine, or one setting, as text before and after; an empty string if there is none."""

    what: str
    before: str
    after: str


class PlatformDiff(Struct, frozen=True, kw_only=True):
    """What differs on one platform. ``fetch_bytes`` is the size of the ``sized`` new files whose size is known."""

    platform: str
    kind: ChangeKind
    changes: tuple[Change, ...]
    machine: tuple[Shift, ...]
    new_files: int = 0
    sized: int = 0
    fetch_bytes: int = 0

    def of(self, kind: ChangeKind) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind == kind)


class LockComparison(Struct, frozen=True, kw_only=True):
    """The platforms on which two lockfiles install other files, and the settings that differ."""

    platforms: tuple[PlatformDiff, ...]
    settings: tuple[Shift, ...] = ()

    @property
    def is_same(self) -> bool:
        """Return whether both lockfiles install the same files and have the same settings."""
        return not self.platforms and not self.settings


def compare(
    before: Lockfile, after: Lockfile, matrix: Matrix, sizes: Mapping[str, int] | None = None
) -> LockComparison:
    """Compare two lockfiles; ``sizes`` has the known file sizes in bytes, by SHA-256."""
    names = dict.fromkeys((*before.platforms, *after.platforms))
    found = [_platform(name, before, after, matrix, sizes or {}) for name in names]
    return LockComparison(
        platforms=tuple(one for one in found if one.changes or one.kind != "changed"),
        settings=tuple(_settings(before, after)),
    )


def _settings(before: Lockfile, after: Lockfile) -> Iterator[Shift]:
    """Yield the settings that differ; a side has none if it is in a format without them."""
    if before.channels and after.channels:
        for what in ("channels", "categories"):
            sides = (" ".join(map(show_url, getattr(lock, what))) for lock in (before, after))
            yield from _shift(what, *sides)
        # a lockfile of a variant records other paths to the same files
        names = [" ".join(source.rpartition("/")[2] for source in lock.sources) for lock in (before, after)]
        yield from _shift("environment files", *names) if all(names) else ()
        yield from _shift(
            "exclude-newer", *(dict(lock.custom_metadata).get(EXCLUDE_NEWER, "") for lock in (before, after))
        )
    if all(lock.channels or lock.custom_metadata for lock in (before, after)):
        was, will = dict(before.variables), dict(after.variables)
        for name in sorted(was | will):
            yield from _shift("variable", *(f"{name}={side[name]}" if name in side else "" for side in (was, will)))


def _shift(what: str, before: str, after: str) -> Iterator[Shift]:
    if before != after:
        yield Shift(what=what, before=before, after=after)


def _platform(name: str, before: Lockfile, after: Lockfile, matrix: Matrix, sizes: Mapping[str, int]) -> PlatformDiff:
    changes = tuple(sorted(_changes(name, before, after), key=lambda change: (change.name, change.manager)))
    fresh = [change.after for change in changes if change.after is not None and change.what not in _SAME_FILE]
    known = [size for one in fresh if (size := sizes.get(one.sha256 or "")) is not None]
    return PlatformDiff(
        platform=name,
        kind="added" if name not in before.platforms else "removed" if name not in after.platforms else "changed",
        changes=changes,
        machine=tuple(_shifts(name, before, after, matrix)) if changes else (),
        new_files=len(fresh),
        sized=len(known),
        fetch_bytes=sum(known),
    )


# a mirror or another category needs no download
_SAME_FILE = {"address", "category"}


def _changes(platform: str, before: Lockfile, after: Lockfile) -> Iterator[Change]:
    old, new = _pinned(before, platform), _pinned(after, platform)
    for key in old.keys() | new.keys():
        manager, name = key
        was, will = old.get(key), new.get(key)
        if was is None or will is None:
            kind: ChangeKind = "added" if was is None else "removed"
            yield Change(name=name, manager=manager, kind=kind, what=kind, before=was, after=will)
        elif (what := _difference(was, will)) is not None:
            yield Change(name=name, manager=manager, kind="changed", what=what, before=was, after=will)


def _difference(was: Pinned, will: Pinned) -> str | None:
    sides = (
        ("version", was.version, will.version),
        ("build", was.build, will.build),
        ("file", *_checksums(was, will)),
        ("address", was.url, will.url),
        ("category", was.category, will.category),
    )
    return next((what for what, a, b in sides if a != b), None)


def _checksums(was: Pinned, will: Pinned) -> tuple[str, str]:
    # lockfiles of conda-lock may have only MD5, which can't be compared with SHA-256
    if (was.sha256 is None) != (will.sha256 is None):
        return _file_name(was.url), _file_name(will.url)
    return was.checksum, will.checksum


def _pinned(lockfile: Lockfile, platform: str) -> dict[tuple[Manager, str], Pinned]:
    found: dict[tuple[Manager, str], Pinned] = {}
    for package in lockfile.for_platform(platform):
        name = package.name if package.manager == "conda" else canonicalize_name(package.name)
        # conda-lock lists a package once per category
        first = found.setdefault((package.manager, name), _pin(package))
        if package.category not in first.category.split(", "):
            names = ", ".join(sorted([*first.category.split(", "), package.category]))
            found[package.manager, name] = replace(first, category=names)
    return found


def _pin(package: LockedPackage) -> Pinned:
    stem = _file_name(package.url).removesuffix(".conda").removesuffix(".tar.bz2")
    return Pinned(
        version=package.version,
        build=stem.rsplit("-", 1)[-1] if package.manager == "conda" else None,
        url=package.url,
        checksum=package.sha256 or package.md5 or "",
        sha256=package.sha256,
        category=package.category,
    )


def _file_name(url: str) -> str:
    return unquote(url.split("#", 1)[0].rsplit("/", 1)[-1])


def _shifts(platform: str, before: Lockfile, after: Lockfile, matrix: Matrix) -> Iterator[Shift]:
    sides = [
        dict(_needs(lock, requirements_of(lock, platform, matrix), platform)) if platform in lock.platforms else {}
        for lock in (before, after)
    ]
    for what in sides[0] | sides[1]:
        yield from _shift(what, sides[0].get(what, ""), sides[1].get(what, ""))


def _needs(lockfile: Lockfile, needs: Requirements, platform: str) -> Iterator[tuple[str, str]]:
    yield "NVIDIA driver", _driver(needs)
    yield "driver by CUDA minor-version compatibility", _driver_text(needs.driver_minor_compatible)
    yield "compute capability", ", ".join(map(str, needs.compute_capabilities))
    yield "PTX for newer GPUs", ", ".join(map(str, needs.ptx))
    yield "glibc", _or_newer(needs.glibc)
    yield "macOS", _or_newer(needs.macos)
    python = next((p.version for p in lockfile.for_platform(platform, "conda") if p.name == "python"), "")
    yield "Python", ".".join(python.split(".")[:2])


def _driver(needs: Requirements) -> str:
    text = _driver_text(needs.driver_direct)
    return f"{text} or newer" if text else ""


def _driver_text(version: Version | None) -> str:
    return driver_text(version) if version is not None else ""


def _or_newer(version: Version | None) -> str:
    return f"{version} or newer" if version is not None else ""


def list_changes(before: Lockfile, after: Lockfile) -> tuple[str, ...]:
    """Return the differences between two lockfiles, one line per package and platform, and then the settings."""
    found = [
        (change.name, platform, change.manager, _line(change, f" ({platform})" if len(after.platforms) > 1 else ""))
        for platform in {*before.platforms, *after.platforms}
        for change in _changes(platform, before, after)
    ]
    settings = (f"~ {one.what} {one.before or 'none'} -> {one.after or 'none'}" for one in _settings(before, after))
    return (*(line for *_, line in sorted(found) if line), *settings)


def _line(change: Change, where: str) -> str:
    name, was, will = change.name, change.before, change.after
    if was is None:
        return f"+ {name} {will.version if will else ''}{where}"
    if will is None:
        return f"- {name} {was.version}{where}"
    if was.version != will.version:
        return f"~ {name} {was.version} -> {will.version}{where}"
    if was.url != will.url:
        return f"~ {name} {was.version}: {_file_name(was.url)} -> {_file_name(will.url)}{where}"
    return ""
