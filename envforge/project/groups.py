"""File groups: parts of a project that ``--with`` and ``--without`` add or leave out by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from envforge.errors import RequestError
from envforge.fields import Document, Fields, read_boolean
from envforge.jinja import TemplateError
from envforge.nearest import nearest
from envforge.project.questions import Answer, Condition, Question, hold, read_conditions
from envforge.project.readers import read_conda_spec, read_group_name, read_line, read_relative, refuse_keys

COMMON_GROUPS = "groups.yml"
ALL = "all"
_COMMON_KEYS = {"name", "help", "default", "files", "conda"}
_KEYS = _COMMON_KEYS | {"when"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Files that a project has or leaves out together. ``files`` are paths of the template's or the common ``files``.

    ``conda`` are the packages that they need; ``when`` are the answers for which the group exists.
    """

    name: str
    help: str
    default: bool = False
    files: tuple[PurePosixPath, ...] = ()
    conda: tuple[str, ...] = ()
    when: tuple[Condition, ...] = ()


def read_common_groups(common: Path) -> tuple[Group, ...]:
    """Read the groups that every template may use: ``groups.yml`` in the common directory."""
    path = common / COMMON_GROUPS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the groups `{path}`: {error}", code="template-damaged") from error
    document = Document(damaged=f"the groups `{path}` are invalid", error=TemplateError, code="template-damaged")
    groups: list[Group] = []
    for entry in document.read_yaml(text).items("groups", optional=True):
        refuse_keys(entry, _COMMON_KEYS)
        groups.append(_group(entry, ()))
        _refuse_twice(entry, groups)
    return tuple(groups)


def read_groups(top: Fields, questions: tuple[Question, ...], common: tuple[Group, ...]) -> tuple[Group, ...]:
    """Read the groups of a manifest, in its order: names of common groups, and groups with their own ``help``.

    An entry without ``help`` extends the common group of its name: its ``files`` and ``conda`` are added, and its
    ``default`` and ``when`` replace the group's.
    """
    groups: list[Group] = []
    found = top.raw("groups")
    for number, value in enumerate(found if isinstance(found, list) else []):
        path = f"{top.at('groups')}[{number}]"
        entry = Fields(top.document, path, {"name": value} if isinstance(value, str) else value)
        refuse_keys(entry, _KEYS)
        groups.append(_group(entry, questions) if entry.has("help") else _extended(entry, questions, common))
        _refuse_twice(entry, groups)
    if found is not None and not isinstance(found, list):
        raise top.fault("groups", "a list", found)
    return tuple(groups)


def choose_groups(
    groups: tuple[Group, ...], answers: Mapping[str, Answer], wanted: tuple[str, ...], unwanted: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of the groups that a project has, in the order of the template.

    ``wanted`` and ``unwanted`` are the values of ``--with`` and ``--without``: names, comma-separated, or ``all``.
    """
    possible = tuple(group for group in groups if hold(group.when, answers))
    added, removed = _named(wanted, "--with", groups), _named(unwanted, "--without", groups)
    for name in added:
        if name in removed:
            raise RequestError(
                f"the group `{name}` is in both `--with` and `--without`",
                hint="to add it, omit it from `--without`; to leave it out, omit it from `--with`",
                code="group-named-twice",
            )
    for group in groups:
        if group.name in added and group not in possible:
            conditions = " and ".join(f"`{condition.words}`" for condition in group.when)
            raise RequestError(
                f"the group `{group.name}` exists only with {conditions}",
                hint=f"to add it, pass `--var {group.when[0].words.split('|')[0]}` too",
                code="group-not-possible",
            )
    more, less = ALL in _words(wanted), ALL in _words(unwanted)
    return tuple(
        group.name
        for group in possible
        if group.name in added or ((more or (group.default and not less)) and group.name not in removed)
    )


def _named(values: tuple[str, ...], option: str, groups: tuple[Group, ...]) -> frozenset[str]:
    known = [group.name for group in groups]
    names = [name for name in _words(values) if name != ALL]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            there = ", ".join(f"`{each}`" for each in known) or "none"
            raise RequestError(
                f"unknown group `{name}` for `{option}`; the template has the groups: {there}",
                hint=f"did you mean `{option} {near}`?" if near else f"to create the project without it, omit `{name}`",
                code="no-such-group",
            )
    return frozenset(names)


def _words(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def _group(entry: Fields, questions: tuple[Question, ...]) -> Group:
    return Group(
        name=entry.need("name", read_group_name),
        help=entry.need("help", read_line),
        default=entry.get("default", read_boolean) or False,
        files=entry.list_of("files", read_relative, optional=True),
        conda=entry.list_of("conda", read_conda_spec, optional=True),
        when=read_conditions(entry, questions),
    )


def _extended(entry: Fields, questions: tuple[Question, ...], common: tuple[Group, ...]) -> Group:
    name = entry.need("name", read_group_name)
    base = next((group for group in common if group.name == name), None)
    if base is None:
        known = ", ".join(f"`{group.name}`" for group in common) or "none"
        raise entry.fault("name", f"a common group ({known}), or a `help` for a group of the template itself", name)
    default = entry.get("default", read_boolean)
    return replace(
        base,
        default=base.default if default is None else default,
        files=(*base.files, *entry.list_of("files", read_relative, optional=True)),
        conda=(*base.conda, *entry.list_of("conda", read_conda_spec, optional=True)),
        when=read_conditions(entry, questions),
    )


def _refuse_twice(entry: Fields, groups: list[Group]) -> None:
    if [group.name for group in groups].count(groups[-1].name) > 1:
        raise entry.fault("name", "each name once", groups[-1].name)
