"""Read the manifests of templates, and check the answers to their questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from envforge.base.jinja import TemplateError
from envforge.base.records import Document, Fields, one_of
from envforge.base.suggest import nearest
from envforge.errors import Hint, RequestError, printable
from envforge.lock.environment_spec import TORCH_FAMILY, Needs
from envforge.project.questions import (
    Answer,
    Group,
    Question,
    choose_groups,
    hold,
    read_command,
    read_common_groups,
    read_conda_spec,
    read_groups,
    read_line,
    read_questions,
    read_relative,
    refuse_keys,
    shown,
)

_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


def refuse_tricks(text: str, document: Document) -> None:
    """Raise for the first such feature, without converting the text to values."""
    import yaml  # noqa: PLC0415 - slow to import

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        top = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise document.fault("", "YAML", " ".join(str(error).split())) from error
    seen: set[int] = set()
    for node in _nodes(top):
        line = f"line {node.start_mark.line + 1}"
        if id(node) in seen:
            raise document.fault(line, "no anchors or aliases", "a reference to another value")
        seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            raise document.fault(line, "plain values", node.tag)
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise document.fault(line, "each key once", twice)


def _nodes(top: Any) -> Iterator[Any]:
    """Yield every node: a shared node each time it is referenced, but its children only once."""
    left, inside = [top], set()
    while left:
        node = left.pop()
        if node is None:
            continue
        yield node
        value = getattr(node, "value", None)
        if isinstance(value, list) and id(node) not in inside:
            inside.add(id(node))
            left += [each for item in value for each in (item if isinstance(item, tuple) else (item,))]


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


def gather_answers(
    template: Template, variables: tuple[str, ...], ask: Callable[[Question], Answer] | None
) -> tuple[tuple[str, Answer], ...]:
    """Answer every question: from ``variables``, else with ``ask``, else with its default.

    A question whose condition is false gets its default, and an answer to it raises ``RequestError``.
    """
    given = _given(template, variables)
    answers: dict[str, Answer] = {}
    for question in template.questions:
        asked = hold(question.when, answers)
        if question.name in given and not asked:
            raise _not_asked(question)
        if question.name in given:
            answers[question.name] = given[question.name]
        else:
            answers[question.name] = ask(question) if ask and asked else question.default
    return tuple(answers.items())


def _given(template: Template, variables: tuple[str, ...]) -> dict[str, Answer]:
    questions = {question.name: question for question in template.questions}
    given: dict[str, Answer] = {}
    for variable in variables:
        key, equals, text = variable.partition("=")
        if not equals:
            raise RequestError(
                f"`--var {printable(variable)}` is not of the form `KEY=VALUE`",
                hint=_example(template),
                code="bad-variable",
            )
        if key not in questions:
            raise _unknown(key, template)
        if key in given:
            raise RequestError(
                f"`--var {key}` was provided twice",
                hint=f"to answer the question, pass `--var {key}=VALUE` once",
                code="bad-variable",
            )
        try:
            given[key] = questions[key].parse(text)
        except ValueError as rule:
            raise RequestError(
                f"invalid answer `{printable(text)}` for `--var {key}`; expected {rule}",
                hint=f"to use the default, pass `--var {key}={shown(questions[key].default)}`",
                code="bad-answer",
            ) from rule
    return given


def _unknown(key: str, template: Template) -> RequestError:
    names = [question.name for question in template.questions]
    near = nearest(key, names)
    known = ", ".join(f"`{name}`" for name in names) or "none"
    return RequestError(
        f"unknown question `{printable(key)}` for `--var`; the template `{template.name}` has the questions: {known}",
        hint=f"did you mean `--var {near}=VALUE`?" if near else _example(template),
        code="no-such-question",
    )


def _not_asked(question: Question) -> RequestError:
    conditions = " and ".join(f"`{condition.words}`" for condition in question.when)
    return RequestError(
        f"`--var {question.name}` applies only with {conditions}",
        hint=(
            Hint(f"to answer it, add `--var {question.when[0].words.split('|')[0]}`"),
            Hint(f"to create the project without it, omit `--var {question.name}`"),
        ),
        code="question-not-asked",
    )


def _example(template: Template) -> str:
    if not template.questions:
        return f"the template `{template.name}` has no questions; omit `--var`"
    first = template.questions[0]
    return f"to answer a question, pass for example `--var {first.name}={shown(first.default)}`"
