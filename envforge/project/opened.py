"""A template from where it lies: among envforge's own, in a folder, or in a git repository (effects: runs git).

Enters: what the user named, or what ``envforge.toml`` has recorded. Leaves: the template and its ``Origin``, for the
time of one command.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from envforge.errors import RequestError
from envforge.jinja import TemplateError
from envforge.project.record import Origin
from envforge.project.sources import check_folder
from envforge.project.templates import COMMON, MANIFEST, Template, list_templates, load_foreign, load_template
from envforge.resources import templates_root

GIT = "git+"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A template, where it came from, and whether it came with envforge."""

    template: Template
    origin: Origin = Origin()  # noqa: RUF009 - a frozen value

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else than envforge wrote it."""
        return bool(self.origin.source)


def is_source(name: str) -> bool:
    """Whether the user named a place rather than one of envforge's templates."""
    return name.startswith((GIT, ".", "~")) or "/" in name or "\\" in name or "://" in name


@contextmanager
def open_template(name: str, base: Path, *, version: str | None = None) -> Iterator[Opened]:
    """The template that ``name`` names; a relative folder is one below ``base``.

    ``version`` is the revision of a git repository in place of the one in ``name``; of any other template it must be
    the version that is there.
    """
    if name.startswith(GIT):
        with _cloned(name if version is None else _at(name, version), base) as found:
            yield found if version is None else replace(found, origin=replace(found.origin, source=_at(name, version)))
        return
    own = not is_source(name)
    if own and (base / name / MANIFEST).is_file() and name not in list_templates(templates_root()):
        raise RequestError(
            f"envforge has no template `{name}`; the folder of that name is one",
            hint=f"./{name}",
            code="no-such-template",
        )
    found = Opened(template=load_template(templates_root(), name)) if own else _in_folder(name, base)
    there = found.template.version
    if version is not None and version != there:
        where = "this envforge has" if not found.is_foreign else f"`{name}` has"
        raise RequestError(
            f"--template-version {version}: of the template `{found.template.name}`, {where} version `{there}`",
            hint="another envforge brings other versions: pip install --upgrade envforge"
            if not found.is_foreign
            else f"--template-version {there}, or check out the other version in that folder",
            code="no-such-template-version",
        )
    yield found


def source_from(name: str, project: Path) -> str:
    """The source as a project records it: a relative folder is one below the project, not below the user's place."""
    if name.startswith(GIT) or Path(name).expanduser().is_absolute():
        return name
    return Path(os.path.relpath(Path(name), project.absolute())).as_posix()


def _in_folder(name: str, base: Path) -> Opened:
    folder = base / Path(name).expanduser()
    if not folder.is_dir():
        raise RequestError(
            f"there is no folder `{folder}` to take a template from",
            hint=f"one of envforge's: envforge templates; to start one: envforge templates new {name}",
            code="no-such-template",
        )
    if not (folder / MANIFEST).is_file():
        raise RequestError(
            f"`{folder}` is no template: it has no `{MANIFEST}`",
            hint=f"envforge templates new {name}",
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
    is_web = address.location.startswith(("http://", "https://"))  # with ssh a user is part of the address
    if is_web and without_credentials(address.location) != address.location:
        raise RequestError(
            f"`{address.public}` is written with a user or a password, and the project records where it came from",
            hint="let git know them: git config credential.helper store",
            code="credentials-in-address",
        )
    with tempfile.TemporaryDirectory(prefix="envforge-template-") as folder:
        work = clone(address, Path(folder) / "template", "template").work
        commit = commit_of(work)
        if not _COMMIT.fullmatch(commit):  # git takes a web page for an empty repository
            raise RequestError(
                f"`{address.public}` has no commits: it is an empty repository, or a page and no repository",
                hint=f"check the address: git ls-remote {without_credentials(address.location)}",
                code="no-such-template",
            )
        links = links_of(work)
        root = work / address.subdirectory
        for link in links:
            if (work / link).is_relative_to(root):
                raise TemplateError(
                    f"the template `{address.public}` has the link or submodule `{link}`, wanted files",
                    code="template-damaged",
                )
        if not (root / MANIFEST).is_file():
            raise RequestError(
                f"`{address.public}` is no template: it has no `{MANIFEST}`",
                hint="a template in a folder of the repository: #subdirectory=FOLDER",
                code="no-such-template",
            )
        yield Opened(template=_checked(root), origin=Origin(source=name, commit=commit))


def _at(name: str, revision: str) -> str:
    """The address with another revision."""
    url, mark, fragment = name.partition("#")
    head, slash, last = url.rpartition("/")
    return f"{head}{slash}{last.partition('@')[0]}@{revision}{mark}{fragment}"
