"""Open a template for one command: a built-in one, a directory, or a git repository."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from envforge.errors import Hint, RequestError
from envforge.jinja import TemplateError
from envforge.project.record import Origin
from envforge.project.sources import check_folder
from envforge.project.templates import COMMON, MANIFEST, Template, list_templates, load_foreign, load_template
from envforge.resources import templates_root

GIT = "git+"
_LIST = Hint("to describe the built-in templates", "envforge templates")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A template and its origin."""

    template: Template
    origin: Origin = Origin()  # noqa: RUF009 - a frozen value

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
    from envforge.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

    return (there, Hint("to get newer versions", upgrade_command()))


def source_from(name: str, project: Path) -> str:
    """Return the source as a project records it: a relative directory is relative to the project."""
    if name.startswith(GIT) or Path(name).expanduser().is_absolute():
        return name
    return Path(os.path.relpath(Path(name), project.absolute())).as_posix()


def _in_folder(name: str, base: Path) -> Opened:
    folder = base / Path(name).expanduser()
    if not folder.is_dir():
        raise RequestError(
            f"template directory `{folder}` does not exist",
            hint=(_LIST, Hint("to start a template of your own", "envforge templates new DIR")),
            code="no-such-template",
        )
    if not (folder / MANIFEST).is_file():
        raise RequestError(
            f"`{folder}` is not a template: it has no `{MANIFEST}`",
            hint=(_LIST, Hint("to start a template of your own", "envforge templates new DIR")),
            code="no-such-template",
        )
    return Opened(template=_checked(folder), origin=Origin(source=name))


def _checked(folder: Path) -> Template:
    check_folder(folder)
    return load_foreign(folder, templates_root() / COMMON)


@contextmanager
def _cloned(name: str, base: Path) -> Iterator[Opened]:
    from envforge.install.credentials import without_credentials  # noqa: PLC0415 - brings an HTTP client
    from envforge.sharing.address import parse_address  # noqa: PLC0415 - only a git template needs it
    from envforge.sharing.git import clone, commit_of, links_of  # noqa: PLC0415 - as above

    address = parse_address(name, base, "template")
    is_web = address.location.startswith(("http://", "https://"))  # an ssh URL needs its user
    if is_web and without_credentials(address.location) != address.location:
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
                command=f"git ls-remote {shlex.quote(without_credentials(address.location))}",
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
        yield Opened(template=_checked(root), origin=Origin(source=name, commit=commit))


def _at(name: str, revision: str) -> str:
    """Return the URL with another revision."""
    url, mark, fragment = name.partition("#")
    head, slash, last = url.rpartition("/")
    return f"{head}{slash}{last.partition('@')[0]}@{revision}{mark}{fragment}"
