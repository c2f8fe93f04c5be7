"""Open a template from envforge, a directory, or a git repository, and list its files.

A link, or a path of the manifest that doesn't exist, raises ``TemplateError``.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from envforge.base.data_files import data_folder, templates_root
from envforge.base.jinja import TemplateError, render_template
from envforge.base.staging import PlannedFile
from envforge.base.urls import has_secrets, show_url
from envforge.errors import Hint, RequestError, printable
from envforge.project.questions import TemplateGroup
from envforge.project.record import TemplateOrigin
from envforge.project.templates import (
    COMMON,
    MANIFEST,
    NAME_PATTERN,
    Template,
    list_templates,
    load_foreign,
    load_template,
)

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


def group_sources(template: Template, group: TemplateGroup) -> tuple[Source, ...]:
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
                raise _irregular(Path(where) / name, found.st_mode)
            count, size = count + 1, size + (found.st_size if stat.S_ISREG(found.st_mode) else 0)
            if count > MOST_FILES or size > MOST_BYTES:
                raise TemplateError(
                    f"the template `{root}` is too large: expected at most {MOST_FILES:,} files and "
                    f"{MOST_BYTES // 1_000_000} MB, found {count:,} and {size // 1_000_000} MB or more",
                    code="template-too-large",
                )


def _irregular(path: Path, mode: int) -> TemplateError:
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
    return TemplateError(f"the template file `{path}` is {kind}; expected a regular file", code="template-damaged")


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
        raise _irregular(top, mode)
    names = sorted(name for name in os.listdir(top) if name not in _LITTER)  # noqa: PTH208 - only names are needed
    return tuple(source for name in names for source in _walk(root, below / name))


GIT = "git+"
_LIST = Hint("to describe the built-in templates", "envforge templates")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A template and its origin."""

    template: Template
    origin: TemplateOrigin = TemplateOrigin()  # noqa: RUF009 - a frozen value

    @property
    def is_foreign(self) -> bool:
        """True for a third-party template."""
        return bool(self.origin.source)


def is_source(name: str) -> bool:
    """Return whether ``name`` is a directory or a URL rather than a built-in template."""
    return name.startswith((GIT, ".", "~")) or "/" in name or "\\" in name or "://" in name


@contextmanager
def open_template(name: str, base: Path, *, version: str | None = None) -> Iterator[Opened]:
    """Open the template that ``name`` names; a relative directory is below ``base``.

    ``version`` replaces the revision in the URL of a git repository; for any other template it must be the existing
    version.
    """
    if name.startswith(GIT):
        with _cloned(name if version is None else _at(name, version), base) as found:
            yield found if version is None else replace(found, origin=replace(found.origin, source=_at(name, version)))
        return
    own = not is_source(name)
    if own and (base / name / MANIFEST).is_file() and name not in list_templates(templates_root()):
        raise RequestError(
            f"envforge has no template `{name}`, but the directory of that name is one",
            hint=f"to use the template in that directory, pass `./{name}`",
            code="no-such-template",
        )
    found = Opened(template=load_template(templates_root(), name)) if own else _in_folder(name, base)
    there = found.template.version
    if version is not None and version != there:
        where = "this envforge has" if not found.is_foreign else f"`{name}` has"
        raise RequestError(
            f"`--template-version {version}` is not available: {where} version `{there}` of `{found.template.name}`",
            hint=_other_version(found),
            code="no-such-template-version",
        )
    yield found


def _other_version(found: Opened) -> tuple[Hint, ...]:
    there = Hint(f"to use version {found.template.version}, omit `--template-version`")
    if found.is_foreign:
        return (there, Hint("to use another version, check it out in that directory"))
    from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

    return (there, Hint("to get newer versions", upgrade_command()))


def source_from(name: str, project: Path) -> str:
    """Return the source as a project records it: a relative directory is relative to the project."""
    if name.startswith(GIT) or Path(name).expanduser().is_absolute():
        return name
    return Path(os.path.relpath(Path(name), project.absolute())).as_posix()


def _in_folder(name: str, base: Path) -> Opened:
    if "://" in name:  # a path would lose a slash, and the error would show the password
        raise RequestError(
            f"`{show_url(name)}` is not a template: expected a name, a directory, or a git URL",
            hint="to read a template from git, write `git+https://HOST/PATH`",
            code="no-such-template",
        )
    folder = base / Path(name).expanduser()
    if not (folder / MANIFEST).is_file():
        raise RequestError(
            f"`{folder}` is not a template: it has no `{MANIFEST}`"
            if folder.is_dir()
            else f"template directory `{folder}` does not exist",
            hint=(_LIST, Hint("to start a template of your own", "envforge templates new DIR")),
            code="no-such-template",
        )
    return Opened(template=_checked(folder), origin=TemplateOrigin(source=name))


def _checked(folder: Path) -> Template:
    check_folder(folder)
    return load_foreign(folder, templates_root() / COMMON)


@contextmanager
def _cloned(name: str, base: Path) -> Iterator[Opened]:
    from envforge.catalogue.address import parse_address  # noqa: PLC0415 - only a git template needs it
    from envforge.catalogue.git import clone, commit_of, links_of  # noqa: PLC0415 - as above

    address = parse_address(name, base, "template")
    if has_secrets(address.location):
        raise RequestError(
            f"the URL `{address.public}` contains a user or a password, which the project would record",
            hint="to let git store the credentials",
            command="git config --global credential.helper store",
            code="credentials-in-address",
        )
    with tempfile.TemporaryDirectory(prefix="envforge-template-") as folder:
        work = clone(address, Path(folder) / "template", "template").work
        commit = commit_of(work)
        if not _COMMIT.fullmatch(commit):  # git clones a web page as an empty repository
            raise RequestError(
                f"`{address.public}` has no commits: it is an empty repository, or not a repository",
                hint="to check the URL",
                command=f"git ls-remote {shlex.quote(show_url(address.location))}",
                code="no-such-template",
            )
        links = links_of(work)
        root = work / address.subdirectory
        for link in links:
            if (work / link).is_relative_to(root):
                raise TemplateError(
                    f"the template `{address.public}` has the link or submodule `{link}`, expected only files",
                    code="template-damaged",
                )
        if not (root / MANIFEST).is_file():
            raise RequestError(
                f"`{address.public}` is not a template: it has no `{MANIFEST}`",
                hint="to use a template in a subdirectory of the repository, append `#subdirectory=DIR` to the URL",
                code="no-such-template",
            )
        yield Opened(template=_checked(root), origin=TemplateOrigin(source=name, commit=commit))


def _at(name: str, revision: str) -> str:
    """Return the URL with another revision."""
    url, mark, fragment = name.partition("#")
    head, slash, last = url.rpartition("/")
    return f"{head}{slash}{last.partition('@')[0]}@{revision}{mark}{fragment}"


_MANIFEST = PurePosixPath("template.yml")


def plan_starter(name: str) -> tuple[PlannedFile, ...]:
    """Return every file of a new template; raise ``RequestError`` if the name is invalid."""
    if not NAME_PATTERN.fullmatch(name) or name == COMMON:
        raise RequestError(
            f"DIR `{printable(name)}` can't be the name of a template: expected lowercase letters, digits, and `-`",
            hint="to start a template with a valid name",
            command="envforge templates new my-template",
            code="bad-template-name",
        )
    root = data_folder() / "starter"
    return tuple(_planned(root, path, name) for path in sorted(root.rglob("*.jinja")))


def _planned(root: Path, source: Path, name: str) -> PlannedFile:
    """Render a file of the starter, which is itself a template: its raw blocks become the new template."""
    path = PurePosixPath(source.relative_to(root).as_posix())
    text = render_template(source.read_text(encoding="utf-8"), {"name": name}, str(source))
    place = path.with_suffix("") if path.with_suffix("") == _MANIFEST else path
    return PlannedFile(path=place, content=text.encode())
