"""List the templates, and read the manifest ``template.yml`` of each into frozen values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from envforge.errors import Hint, RequestError, printable
from envforge.fields import Document, Fields, one_of
from envforge.jinja import TemplateError
from envforge.nearest import nearest
from envforge.project.groups import Group, choose_groups, read_common_groups, read_groups
from envforge.project.plain_yaml import refuse_tricks
from envforge.project.questions import Answer, Question, read_questions
from envforge.project.readers import read_command, read_conda_spec, read_line, read_relative, refuse_keys
from envforge.spec import TORCH_FAMILY, Needs

MANIFEST = "template.yml"
COMMON = "common"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,63}")

_MANIFEST_KEYS = {"name", "version", "summary", "questions", "groups", "common", "not_common", "environment"}
_LONGEST_MANIFEST = 200_000
_ENVIRONMENT_KEYS = {"torch", "conda"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A template; ``root`` contains its ``files/``.

    ``common`` names the files and directories of ``common_root/files`` that it uses, ``not_common`` the exceptions
    below them.

    ``needs`` are the requirements of every project; ``needs_with`` adds those of its groups. ``hooks`` are commands
    that its author wants to run in a new project.
    """

    name: str
    version: str
    summary: str
    root: Path
    common_root: Path
    questions: tuple[Question, ...]
    common: tuple[PurePosixPath, ...]
    not_common: tuple[PurePosixPath, ...]
    needs: Needs
    groups: tuple[Group, ...] = ()
    hooks: tuple[tuple[str, ...], ...] = ()

    def needs_with(self, groups: Collection[str]) -> Needs:
        """Return what a project with these groups needs."""
        specs = [spec for group in self.groups if group.name in groups for spec in group.conda]
        return replace(self.needs, conda=tuple(dict.fromkeys((*self.needs.conda, *specs))))

    def default_groups(self, answers: Mapping[str, Answer]) -> tuple[str, ...]:
        """Return the groups that a project has by default."""
        return choose_groups(self.groups, answers, (), ())


def list_templates(root: Path) -> tuple[str, ...]:
    """Return the names of the templates in a directory, sorted."""
    return tuple(sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}")))


def load_template(root: Path, name: str) -> Template:
    """Read one template; raise ``RequestError`` for an unknown name, ``TemplateError`` for an invalid manifest."""
    known = list_templates(root)
    if name not in known:
        near, listed = nearest(name, known), Hint("to describe the built-in templates", "envforge templates")
        raise RequestError(
            f"unknown template `{printable(name)}`; "
            f"expected one of: {', '.join(f'`{each}`' for each in known) or 'none'}",
            hint=(Hint(f"did you mean `{near}`?") if near else listed,),
            code="no-such-template",
        )
    path = root / name / MANIFEST
    return parse_manifest(_read(path), path)


def parse_manifest(text: str, path: Path, common_root: Path | None = None) -> Template:
    """Parse the manifest at ``path``, in a directory of the template's name.

    ``common_root`` has the files that templates share; by default, it is next to the template's directory.
    """
    return _template(
        _document(path).read_yaml(text), path.parent, common_root or path.parent.parent / COMMON, named=True
    )


def load_foreign(root: Path, common_root: Path) -> Template:
    """Read a template in a directory of any name; its ``common`` files and groups are from ``common_root``."""
    path = root / MANIFEST
    text = _read(path)
    if len(text) > _LONGEST_MANIFEST:
        raise TemplateError(
            f"the template `{path}` has {len(text):,} characters, expected at most {_LONGEST_MANIFEST:,}",
            code="template-damaged",
        )
    refuse_tricks(text, _document(path))
    return _template(_document(path).read_yaml(text), root, common_root, named=False)


def _document(path: Path) -> Document:
    return Document(damaged=f"the template `{path}` is invalid", error=TemplateError, code="template-damaged")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the template `{path}`: {error}", code="template-damaged") from error


def _template(top: Fields, root: Path, common_root: Path, *, named: bool) -> Template:
    """Read a manifest; with ``named``, the directory has the template's name, and hooks are rejected."""
    refuse_keys(top, _MANIFEST_KEYS if named else _MANIFEST_KEYS | {"hooks"})
    name = top.need("name", read_line)
    if not NAME_PATTERN.fullmatch(name) or name == COMMON:
        raise top.fault("name", "lowercase letters, digits, and `-`, and not `common`", name)
    if named and name != root.name:
        raise top.fault("name", f"the name of its directory, `{root.name}`", name)
    questions = read_questions(top.items("questions", optional=True))
    return Template(
        name=name,
        version=top.need("version", _read_version),
        summary=top.need("summary", read_line),
        root=root,
        common_root=common_root,
        questions=questions,
        common=top.list_of("common", read_relative, optional=True),
        not_common=top.list_of("not_common", read_relative, optional=True),
        needs=_needs(top.inner("environment")) if "environment" in top.value else Needs(),
        groups=read_groups(top, questions, read_common_groups(common_root)),
        hooks=top.list_of("hooks", read_command, optional=True),
    )


def _needs(entry: Fields) -> Needs:
    refuse_keys(entry, _ENVIRONMENT_KEYS)
    family = entry.list_of("torch", one_of(TORCH_FAMILY), optional=True)
    if "torch" not in entry.value:
        family = Needs().torch_family
    return Needs(
        torch_family=tuple(name for name in TORCH_FAMILY if name in ("torch", *family)),
        conda=entry.list_of("conda", read_conda_spec, optional=True),
    )


def _read_version(value: object) -> str:
    return str(value) if type(value) is int else read_line(value)
