"""Describe templates, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import PurePosixPath

from envforge.errors import printable
from envforge.project.hooks import shown_hook
from envforge.project.opened import Opened
from envforge.project.questions import Question, shown
from envforge.project.sources import group_sources, project_sources
from envforge.project.templates import Template
from envforge.report import Json, success
from envforge.resources import lockfiles_root

_WIDTH = 100


def overview(templates: Sequence[Template]) -> str:
    """Return every template with its summary and groups."""
    blocks = []
    for template in templates:
        groups = ", ".join(group.name for group in template.groups)
        lines = [f"{template.name} {template.version}", *_wrapped(template.summary)]
        lines += _wrapped(f"groups: {groups}") if groups else []
        blocks.append("\n".join(lines))
    return "\n".join(
        [
            *blocks,
            "",
            "To describe a template, run `envforge templates show NAME`; to use it, run `envforge new NAME [DIR]`.",
        ]
    )


def overview_json(templates: Sequence[Template]) -> str:
    """Return the envelope of ``templates --json``."""
    rows: list[Json] = [
        {
            "name": template.name,
            "version": template.version,
            "summary": template.summary,
            "groups": [group.name for group in template.groups],
        }
        for template in templates
    ]
    return success("templates", {"templates": rows})


def describe(opened: Opened) -> str:
    """Return the questions, groups, files, and packages of a template."""
    template = opened.template
    lines = [f"{template.name} {template.version}", *_wrapped(template.summary)]
    if opened.is_foreign:
        commit = f" at {opened.origin.commit[:10]}" if opened.origin.commit else ""
        lines += _wrapped(f"from {opened.origin.source}{commit}")
    lines += _section("Questions (--var NAME=VALUE)", [_question(question) for question in template.questions])
    lines += _section("Groups (--with NAME, --without NAME)", _groups(template))
    lines += _section("Files", [str(path) for path in _places(template)])
    needs = [*template.needs.torch_family, *template.needs.conda]
    lines += _section("Packages", [", ".join(needs)])
    lines += _section("Lockfiles in the catalogue", _locks(template) if not opened.is_foreign else [])
    lines += _section("Commands (run only with --trust)", [shown_hook(command) for command in template.hooks])
    return "\n".join(lines)


def describe_json(opened: Opened) -> str:
    """Return the envelope of ``templates show --json``."""
    template = opened.template
    questions: list[Json] = [
        {
            "name": question.name,
            "type": question.kind,
            "default": question.default,
            "help": question.help,
            "choices": list(question.choices),
            "pattern": question.pattern,
            "when": {condition.question: list(condition.values) for condition in question.when},
        }
        for question in template.questions
    ]
    groups: list[Json] = [
        {
            "name": group.name,
            "default": group.default,
            "help": group.help,
            "files": [str(path) for path in _group_places(template, group.name)],
            "conda": list(group.conda),
            "when": {condition.question: list(condition.values) for condition in group.when},
        }
        for group in template.groups
    ]
    result: Json = {
        "name": template.name,
        "version": template.version,
        "summary": template.summary,
        "source": opened.origin.source or None,
        "commit": opened.origin.commit or None,
        "questions": questions,
        "groups": groups,
        "files": [str(path) for path in _places(template)],
        "needs": {"torch": list(template.needs.torch_family), "conda": list(template.needs.conda)},
        "locks": [*_locks(template)] if not opened.is_foreign else [],
        "hooks": [list(command) for command in template.hooks],
    }
    return success("templates show", result)


def _question(question: Question) -> str:
    asked = f"{', '.join(question.choices)}; " if question.choices else f"{question.kind}; "
    text = f"{question.name}  {question.help} ({asked}default {shown(question.default)})"
    return text + _only(tuple(condition.words for condition in question.when))


def _groups(template: Template) -> list[str]:
    lines = []
    for group in template.groups:
        files = ", ".join(str(path) for path in _group_places(template, group.name))
        text = f"{group.name}  {group.help}{' (default)' if group.default else ''}"
        text += _only(tuple(condition.words for condition in group.when))
        lines.append(f"{text}: {files}" + (f"; needs {', '.join(group.conda)}" if group.conda else ""))
    return lines


def _only(conditions: tuple[str, ...]) -> str:
    return f", only with {' and '.join(conditions)}" if conditions else ""


def _places(template: Template) -> tuple[PurePosixPath, ...]:
    """Return the paths of a project without groups; ``PACKAGE`` is a placeholder for the name of its package."""
    return tuple(sorted(_place(source.path) for source in project_sources(template, ())))


def _group_places(template: Template, name: str) -> tuple[PurePosixPath, ...]:
    group = next(group for group in template.groups if group.name == name)
    return tuple(dict.fromkeys(_place(source.path) for source in group_sources(template, group)))


def _place(path: PurePosixPath) -> PurePosixPath:
    shown_path = str(path).removesuffix(".jinja").replace("__package__", "PACKAGE")
    return PurePosixPath(printable(shown_path))


def _locks(template: Template) -> list[str]:
    from envforge import catalogue

    return [
        f"{entry.variant}: torch {entry.selection.torch}, Python {entry.selection.python}, {', '.join(entry.platforms)}"
        for entry in catalogue.entries(lockfiles_root())
        if entry.template == template.name
    ]


def _section(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    return ["", title, *(part for line in lines for part in _wrapped(line))]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
