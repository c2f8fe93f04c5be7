"""Find what links make of the paths of packages in one prefix, and which paths several packages have."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias, cast

import rattler
from msgspec import Struct, field

from envforge.errors import EnvforgeError, printable
from envforge.prefix.conda_packages import Archive
from envforge.prefix.installed import noarch_place
from envforge.prefix.package_checks import EXCLUDE, INFO, RESERVED, refused

_MOST_LINKS = 40  # as the kernel of Linux follows, path_resolution(7)


class Joined(Struct, frozen=True, kw_only=True):
    """The files of packages in one prefix, to find what links make of their paths.

    ``site_packages`` is the path of site-packages in the prefix. Links of ``prefix`` count, too, unless it is None.
    ``kept`` are the packages that stay in it, ``removed`` the paths that only packages have that won't, and ``made``
    the directories of wheels, which uv may make before a link with the same path exists.
    """

    archives: tuple[Archive, ...]
    site_packages: str
    prefix: Path | None
    kept: tuple[rattler.PrefixRecord, ...] = ()
    removed: frozenset[str] = frozenset()
    made: frozenset[str] = frozenset()
    links: dict[str, set[str | None]] = field(default_factory=dict)
    known: dict[str, set[str | None]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ``EnvforgeError`` if a package would write, or has a link to, a path outside the prefix."""
        programs = noarch_place("python-scripts", self.site_packages)
        folders = {self.site_packages, programs, *self._find_links()}
        for archive in self.archives:
            self._check_archive(archive, programs, folders)
        for name in (name for record in self.kept for name in _links_of(record)):
            if self.resolve(name) is None and not self._leads_outside(name):
                raise EnvforgeError(
                    f"the locked packages would make `{printable(name)}`, a link of an installed package, lead to a "
                    "path outside the environment",
                    hint=(EXCLUDE,),
                    code="archive-refused",
                )

    def _check_archive(self, archive: Archive, programs: str, folders: set[str]) -> None:
        artifact = archive.item.artifact
        written = [name for name in archive.tree.folders if _is_linked(name)]
        written += ["python-scripts"] if archive.programs else []
        for name in written:
            if self.resolve(self._placed(archive, name)) is None:
                raise refused(artifact, name, "is a directory outside the environment, through a link")
        for name in filter(_is_linked, archive.tree.links):
            if self.resolve(self._placed(archive, name)) is None:
                target = printable(archive.tree.links[name])
                raise refused(artifact, name, f"is a link to a path outside the package: `{target}`")
        if archive.programs and programs in self.links:
            raise refused(artifact, programs, "is a directory, and a link in another package")
        moved = {self.site_packages, programs} & archive.tree.files - archive.tree.links.keys()
        if archive.is_noarch:  # whose files and programs are placed elsewhere
            moved = archive.tree.files.union(f"python-scripts/{program}" for program in archive.programs)
        for name in filter(_is_linked, moved):
            if self._placed(archive, name) in folders:
                raise refused(artifact, name, "would replace a directory")

    def _leads_outside(self, name: str) -> bool:
        """Return whether a link in the prefix leads to an existing or absolute path outside before anything changes."""
        root = cast("Path", self.prefix).resolve()
        link = root / name
        leaves = os.path.isabs(os.readlink(link)) or link.exists() if link.is_symlink() else False  # noqa: PTH115, PTH117
        return leaves and not link.resolve().is_relative_to(root)

    def _find_links(self) -> set[str]:
        """Collect the links of all packages, and return the directories of the new ones.

        If several packages have the path of a link, only rattler and uv know which of them will be there, so each
        counts.
        """
        for archive in self.archives:
            for name, target in archive.tree.links.items():
                if not _is_linked(name):
                    continue
                self.links.setdefault(self._placed(archive, name), set()).add(target)
        for record in self.kept:
            for name in _links_of(record):
                aside = cast("Path", self.prefix) / "__clobbers__" / record.name.normalized / name
                if aside.is_symlink():
                    self.links.setdefault(name, set()).add(os.readlink(aside))  # noqa: PTH115 - a text
        for path in map(posixpath.normpath, self.made):
            for part in accumulate(path.split("/"), posixpath.join):
                if part in self.links:
                    self.links[part].add(None)
        folders = set[str]()
        for archive in self.archives:
            placed = {self._placed(archive, name) for name in filter(_is_linked, archive.tree.folders)}
            files = {self._placed(archive, name) for name in archive.tree.files - archive.tree.links.keys()}
            for name in (placed | files) & self.links.keys():
                self.links[name].add(None)
            folders |= placed
        return folders

    def shared(self) -> Iterator[str]:
        """Yield a warning for conda packages with a common path."""
        owners = {path.as_posix(): record.name.normalized for record in self.kept for path in record.files}
        common: dict[tuple[str, str], list[str]] = {}
        for archive in self.archives:
            name = archive.record.name.normalized
            for path in filter(_is_linked, archive.tree.files):
                owner = owners.setdefault(self._placed(archive, path), name)
                if owner != name:
                    common.setdefault((owner, name), []).append(path)
        for archive in self.archives:
            name = archive.record.name.normalized
            for path in sorted(map(partial(self._placed, archive), archive.tree.folders)):
                owner = owners.get(path, name)
                if owner != name and path not in self.links:
                    yield f"`{printable(path)}` is a file of `{owner}` and a directory of `{name}`, so one is missing"
        for (one, other), paths in sorted(common.items()):
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            yield f"the conda packages `{one}` and `{other}` both contain `{printable(min(paths))}`{more}"

    def _placed(self, archive: Archive, name: str) -> str:
        """Return the path in the prefix of a path in a package."""
        return noarch_place(name, self.site_packages) if archive.is_noarch else name

    def resolve(self, path: str) -> str | None:
        """Return a path to which links lead, relative to the prefix; None if one is outside or reserved."""
        found, followed, waiting = path, 0, [(_parts(path), "")]
        if path.startswith("/"):
            return None
        while waiting:
            parts, found = waiting.pop()
            if parts is None:
                # in lowercase, because the file systems of macOS and Windows ignore the case
                if found.split("/")[0].lower() in RESERVED:
                    return None
                continue
            part, rest = parts
            if part == "..":
                if not found:
                    return None
                waiting.append((rest, posixpath.dirname(found)))
                continue
            here = f"{found}/{part}" if found else part
            for target in self._targets(here):
                if target is None:
                    waiting.append((rest, here))
                    continue
                followed += 1
                if followed > _MOST_LINKS or target.startswith("/"):
                    return None
                waiting.append((_parts(target, rest), found))
        return found

    def _targets(self, path: str) -> set[str | None]:
        """Return where a path may lead, if it is a link; None stands for itself."""
        stated = self.links.get(path, set())
        if self.prefix is None or path in self.removed:
            return stated or {None}
        if path not in self.known:
            place = self.prefix / path
            if place.is_symlink():
                self.known[path] = {os.readlink(place)}  # noqa: PTH115 - a text
            else:  # a directory stays if a new link has its path
                self.known[path] = {None} if not stated or place.exists() else set()
        return stated | self.known[path]


_Parts: TypeAlias = "tuple[str, _Parts] | None"


def _parts(path: str, rest: _Parts = None) -> _Parts:
    """Return the names in a path as a linked list, followed by ``rest``."""
    for part in reversed(path.split("/")):
        if part not in {"", "."}:
            rest = (part, rest)
    return rest


def _links_of(record: rattler.PrefixRecord) -> Iterator[str]:
    """Yield the paths of an installed package that are links."""
    return (Path(row.relative_path).as_posix() for row in record.paths_data.paths if row.path_type.softlink)


def _is_linked(name: str) -> bool:
    """Return whether an unpacked file may be linked into the prefix; a package that lists its metadata is refused."""
    return name.split("/", 1)[0] != INFO
