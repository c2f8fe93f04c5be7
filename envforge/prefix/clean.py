"""Find and remove caches and leftovers, with their sizes.

Only files created by envforge are removed. What a running command uses is kept: the cache during an install, a locked
prefix, and the working directories of ``envforge lock``.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from envforge.base.files import file_lock
from envforge.errors import EnvforgeError, OutsideError
from envforge.prefix.cache import exclusive_cache, walk
from envforge.prefix.journal import empty_prefix, journal_path, lock_prefix, read_journal


class Size(Struct, frozen=True, kw_only=True):
    """Sizes in bytes, each file once; ``freed_bytes`` excludes files that have hard links elsewhere."""

    bytes: int = 0
    freed_bytes: int = 0


def file_bytes(path: Path) -> int | None:
    """Return the size of a file in bytes, or None if it doesn't exist; a cleaning may remove it at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def measure(path: Path) -> Size:
    """Return the size of a file or directory. Links are not followed."""
    links: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    is_folder = path.is_dir() and not path.is_symlink()
    try:  # not the states of `walk`, which have no number of links on Windows
        states = [os.lstat(entry.path) for _, entry, _ in walk(path)] if is_folder else [path.lstat()]
    except FileNotFoundError:  # another process has removed it
        return Size()
    for status in states:
        if stat.S_ISDIR(status.st_mode):
            continue
        key = (status.st_dev, status.st_ino)
        links[key] = links.get(key, 0) + 1
        sizes[key] = (status.st_size, status.st_nlink)
    return Size(
        bytes=sum(size for size, _ in sizes.values()),
        # a file that an environment shares by a hard link stays on the disk
        freed_bytes=sum(size for key, (size, count) in sizes.items() if links[key] >= count),
    )


RemovableKind = Literal["package cache", "repodata", "leftover", "unfinished environment"]
CACHE_FOLDERS = ("files", "pkgs", "uv", "built", "bundles")
_REMOVING = ".envforge-removing-"
_TEMPORARY = ("envforge-lock-*", "envforge-repodata-*", "envforge-check-*", "envforge-new-*", f"{_REMOVING}*")
_ABANDONED_S = 3600.0  # without a lock file, an hour without a change is the only sign


class Places(Struct, frozen=True, kw_only=True):
    """Where to look: package cache, cache directory, temporary files, project directories, and prefixes."""

    packages: Path
    caches: Path
    temporary: Path
    projects: tuple[Path, ...]
    prefixes: tuple[Path, ...]


class Removable(Struct, frozen=True, kw_only=True):
    """An item that can be removed."""

    kind: RemovableKind
    path: Path
    size: Size


class Kept(Struct, frozen=True, kw_only=True):
    """An item that can't be removed now, and the reason."""

    path: Path
    why: str


class Cleaning(Struct, frozen=True, kw_only=True):
    """What was removed (or, in a dry run, would be), and what was kept."""

    removed: tuple[Removable, ...]
    kept: tuple[Kept, ...]


def clean(places: Places, *, is_dry: bool, now_s: float | None = None) -> Cleaning:
    """Remove what is no longer needed, or only list it if ``is_dry``; raise ``OutsideError`` if a removal fails."""
    work = _Work(places=places, is_dry=is_dry, now_s=time.time() if now_s is None else now_s, removed=[], kept=[])
    work.package_cache()
    work.other_caches()
    for prefix in places.prefixes:
        work.unfinished(prefix)
    return Cleaning(removed=tuple(work.removed), kept=tuple(work.kept))


class _Work(Struct, frozen=True, kw_only=True):
    places: Places
    is_dry: bool
    now_s: float
    removed: list[Removable]
    kept: list[Kept]

    def package_cache(self) -> None:
        root = self.places.packages
        folders = [root / name for name in CACHE_FOLDERS if (root / name).is_dir()]
        folders += root.glob(f"{_REMOVING}*")
        if not folders:
            return
        with self._unless_busy(root), exclusive_cache(root):
            for folder in folders:
                # conda writes it into its own package caches, and the variable for the cache may name one of those
                if (folder / "urls.txt").exists():
                    self.kept.append(Kept(path=folder, why="conda stores its own packages there"))
                else:
                    self._remove("package cache", folder, _remove_whole)

    def other_caches(self) -> None:
        """Remove repodata and temporary directories, which name no owner, unless any ``envforge lock`` is running."""
        places = self.places
        temporary = [path for pattern in _TEMPORARY for path in sorted(places.temporary.glob(pattern))]
        found: list[tuple[RemovableKind, Path]] = [("leftover", path) for path in temporary if self._is_abandoned(path)]
        for project in places.projects:
            beside = sorted(path for path in project.glob(".*.envforge-*") if path.is_dir())
            found += [("leftover", path) for path in beside if self._is_abandoned(path)]
        repodata = (places.caches / "repodata", *sorted(places.caches.glob(f"{_REMOVING}*")))
        found += [("repodata", path) for path in repodata if path.is_dir()]
        running = _running(places.caches / "running") if found else None
        for kind, path in found:
            if running is not None:
                self.kept.append(Kept(path=path, why=f"`envforge lock` is running (it holds `{running}`)"))
            else:
                self._remove(kind, path, _remove_whole)

    def unfinished(self, prefix: Path) -> None:
        """Remove an incomplete environment that envforge created in an empty directory."""
        try:
            journal = read_journal(prefix)
        except EnvforgeError as error:
            self.kept.append(Kept(path=prefix, why=error.message))
            return
        if journal is None or journal.step == "verified":
            return
        if not journal.created:
            why = "it is incomplete, but contained files before envforge installed into it"
            self.kept.append(Kept(path=prefix, why=why))
            return
        with self._unless_busy(prefix):
            with lock_prefix(prefix):
                self._remove("unfinished environment", prefix, _remove_prefix)
            if not self.is_dry:
                shutil.rmtree(prefix)

    @contextmanager
    def _unless_busy(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OutsideError as error:
            if not error.code.endswith("-busy"):
                raise
            self.kept.append(Kept(path=path, why=error.message))

    def _remove(self, kind: RemovableKind, path: Path, remove: Callable[[Path], None]) -> None:
        found = Removable(kind=kind, path=path, size=measure(path))
        if not self.is_dry:
            try:
                remove(path)
            except OSError as error:
                raise OutsideError(f"cannot remove `{path}`: {error}", code="not-removed") from error
        self.removed.append(found)

    def _is_abandoned(self, path: Path) -> bool:
        """Return whether a directory belongs to the user and nothing in it has changed for an hour."""
        if path.is_symlink() or (hasattr(os, "getuid") and path.stat().st_uid != os.getuid()):
            return False
        try:
            newest_s = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
        except FileNotFoundError:  # another process is using it
            return False
        return self.now_s - newest_s > _ABANDONED_S


def _running(folder: Path) -> Path | None:
    """Return a lock file that a running ``envforge lock`` holds, if any."""
    from filelock import Timeout  # noqa: PLC0415 - only if there is something to remove

    def is_held(path: Path) -> bool:
        try:
            with file_lock(path, timeout_s=0):
                return False
        except Timeout:
            return True

    return next(filter(is_held, sorted(folder.glob("*.lock"))), None)


def _remove_whole(path: Path) -> None:
    """Rename a directory before removing it, so that an interrupted removal never leaves a partial cache."""
    if path.is_symlink() or path.name.startswith(_REMOVING):
        aside = path
    else:
        aside = Path(tempfile.mkdtemp(prefix=_REMOVING, dir=path.parent)) / path.name
        path.rename(aside)
        aside = aside.parent
    if aside.is_symlink():
        aside.unlink()
    else:
        shutil.rmtree(aside)


def _remove_prefix(prefix: Path) -> None:
    """Remove everything, and the journal last, because it marks the environment as incomplete until the end."""
    empty_prefix(prefix)
    journal_path(prefix).unlink()
