"""Open a template of a third party in a directory or a git repository, and start a template."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from envforge.base.data_files import data_folder, templates_root
from envforge.base.jinja import TemplateError, render_template
from envforge.base.staging import PlannedFile
from envforge.base.urls import has_secrets, show_url
from envforge.errors import Hint, RequestError, printable
from envforge.project.record import TemplateOrigin
from envforge.project.templates import (
    COMMON,
    MANIFEST,
    NAME_PATTERN,
    Opened,
    Template,
    irregular,
    load_foreign,
)

MOST_FILES = 10_000
MOST_BYTES = 100_000_000


def check_folder(root: Path) -> None:
    """Raise if a template's directory contains links or special files, or is too large."""
    count, size = 0, 0
    for where, folders, names in os.walk(root):
        # git's own directory has any number of files, and none of them gets into a project
        folders[:] = [name for name in folders if name != ".git"]
        for name in (*folders, *names):
            found = (Path(where) / name).lstat()
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise irregular(Path(where) / name, found.st_mode)
            count, size = count + 1, size + (found.st_size if stat.S_ISREG(found.st_mode) else 0)
            if count > MOST_FILES or size > MOST_BYTES:
                raise TemplateError(
                    f"the template `{root}` is too large: expected at most {MOST_FILES:,} files and "
                    f"{MOST_BYTES // 1_000_000} MB, found {count:,} and {size // 1_000_000} MB or more",
                    code="template-too-large",
                )


_LIST = Hint("to describe the built-in templates", "envforge templates")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def in_folder(name: str, base: Path) -> Opened:
    """Return the template in a directory."""
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
def cloned(name: str, revision: str | None, base: Path) -> Iterator[Opened]:
    """Yield the template in a clone of a git repository; ``revision`` replaces the one in the URL."""
    from envforge.catalogue.address import parse_address  # noqa: PLC0415 - only a git template needs it
    from envforge.catalogue.git import clone, commit_of, links_of  # noqa: PLC0415 - as above

    if revision is not None:
        url, mark, fragment = name.partition("#")
        head, slash, last = url.rpartition("/")
        name = f"{head}{slash}{last.partition('@')[0]}@{revision}{mark}{fragment}"
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
        # as git has them: a checkout on Windows has text files in place of links
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
