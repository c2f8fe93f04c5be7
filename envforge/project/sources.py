"""List the template files that a project consists of.

A link, or a path of the manifest that doesn't exist, raises ``TemplateError``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from envforge.jinja import TemplateError
from envforge.project.groups import Group
from envforge.project.templates import Template

FILES = "files"
MOST_FILES = 10_000
MOST_BYTES = 100_000_000
_LITTER = ("__pycache__", ".DS_Store", ".gitkeep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a template: ``path`` is relative to ``root``."""

    root: Path
    path: PurePosixPath


def project_sources(template: Template, groups: Collection[str]) -> tuple[Source, ...]:
    """Return the sources of a project with these groups.

    These are all of the template's own files, the common files that it uses, and the files of its groups. A file that
    belongs to groups is left out if the project has none of them.
    """
    own, common = template.root / FILES, template.common_root / FILES
    sources = list(_walk(own, PurePosixPath()))
    for wanted in template.common:
        sources += _found(wanted, f"the template `{template.name}` uses the common file", (common,))
    for unwanted in template.not_common:
        for source in _found(unwanted, f"the template `{template.name}` excludes the common file", (common,)):
            sources.remove(source)
    members: dict[Source, set[str]] = {}
    for group in template.groups:
        for source in group_sources(template, group):
            members.setdefault(source, set()).add(group.name)
    taken = [source for source in (*sources, *members) if source not in members or members[source] & set(groups)]
    return tuple(dict.fromkeys(taken))


def group_sources(template: Template, group: Group) -> tuple[Source, ...]:
    """Return the sources of one group; the template's own files take precedence over common ones."""
    roots = (template.root / FILES, template.common_root / FILES)
    what = f"the group `{group.name}` of the template `{template.name}` has the file"
    return tuple(source for wanted in group.files for source in _found(wanted, what, roots))


def check_folder(root: Path) -> None:
    """Raise if a template's directory contains links or special files, or is too large."""
    count, size = 0, 0
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        for name in (*folders, *names):
            found = (Path(where) / name).lstat()
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
                raise TemplateError(
                    f"the template file `{Path(where) / name}` is {kind}; expected a regular file",
                    code="template-damaged",
                )
            count, size = count + 1, size + (found.st_size if stat.S_ISREG(found.st_mode) else 0)
            if count > MOST_FILES or size > MOST_BYTES:
                raise TemplateError(
                    f"the template `{root}` is too large: expected at most {MOST_FILES:,} files and "
                    f"{MOST_BYTES // 1_000_000} MB, found {count:,} and {size // 1_000_000} MB or more",
                    code="template-too-large",
                )


def _found(wanted: PurePosixPath, what: str, roots: tuple[Path, ...]) -> tuple[Source, ...]:
    for root in roots:
        found = _walk(root, wanted)
        if found:
            return found
    places = " and ".join(f"`{root}`" for root in roots)
    raise TemplateError(f"{what} `{wanted}`, which doesn't exist in {places}", code="template-damaged")


def _walk(root: Path, below: PurePosixPath) -> tuple[Source, ...]:
    """Return the files at or below ``root/below``, sorted; raise if one is a link."""
    top = root / below
    try:
        mode = top.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if stat.S_ISREG(mode):
        return (Source(root=root, path=below),)
    if not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise TemplateError(f"the template file `{top}` is {kind}; expected a regular file", code="template-damaged")
    names = sorted(name for name in os.listdir(top) if name not in _LITTER)  # noqa: PTH208 - only names are needed
    return tuple(source for name in names for source in _walk(root, below / name))
