"""Describe the questions and the file groups of a template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, cast, get_args

from envforge.base.jinja import TemplateError
from envforge.base.records import Document, Fields, WrongValue, one_of, read_boolean
from envforge.base.suggest import nearest
from envforge.errors import RequestError
from envforge.lock.environment_spec import TORCH_FAMILY, split_conda_spec

_QUESTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_GROUP_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


def refuse_keys(entry: Fields, keys: set[str]) -> None:
    """Raise for an unknown key, because a misspelled one must not be ignored."""
    for key in entry.value:
        if key not in keys:
            raise entry.document.fault(entry.path, "only the keys " + ", ".join(f"`{k}`" for k in sorted(keys)), key)


def read_line(value: object) -> str:
    """Read one line of text."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise WrongValue("one line of text")
    return value


def read_question_name(value: object) -> str:
    """Read the name of a question, which is an identifier in Python and Jinja."""
    name = read_line(value)
    if not _QUESTION_NAME.fullmatch(name) or hasattr(dict, name):
        raise WrongValue("lowercase letters, digits, and `_`, and no method of a mapping such as `items`")
    return name


def read_group_name(value: object) -> str:
    """Read the name of a group, as ``--with`` accepts it; ``all`` is reserved."""
    name = read_line(value)
    if not _GROUP_NAME.fullmatch(name) or name == "all":
        raise WrongValue("lowercase letters, digits, and `-`, and not `all`")
    return name


def read_pattern(value: object) -> str:
    """Read a regular expression."""
    text = read_line(value)
    try:
        re.compile(text)
    except re.error as error:
        raise WrongValue(f"a regular expression ({error})") from error
    return text


def read_conda_spec(value: object) -> str:
    """Read the conda spec of a package that the selection doesn't pin."""
    text = read_line(value)
    try:
        name, _ = split_conda_spec(text)
    except ValueError as error:
        raise WrongValue("a conda spec such as `numpy >=1.26`") from error
    if name in ("python", *TORCH_FAMILY):
        raise WrongValue("a package other than Python and the torch family, which the selection pins")
    return text


def read_command(value: object) -> tuple[str, ...]:
    """Read a command as the list of its arguments."""
    if not isinstance(value, list) or not value:
        raise WrongValue("a list of arguments, such as [python, setup.py]")
    return tuple(read_line(word) for word in value)


def read_relative(value: object) -> PurePosixPath:
    """Read the path of a file or directory of a template."""
    text = read_line(value)
    if text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise WrongValue("a path inside `files`")
    return PurePosixPath(text)


Kind = Literal["str", "int", "choice", "bool"]
Answer = str | int | bool

_KINDS: dict[Kind, type] = {"str": str, "int": int, "choice": str, "bool": bool}
_TRUE = ("true", "yes", "y", "on", "1")
_FALSE = ("false", "no", "n", "off", "0")
_LONGEST_ANSWER = 200
_KEYS = {"name", "type", "default", "help", "choices", "pattern", "when"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """True if the answer to ``question`` is one of ``values``."""

    question: str
    values: tuple[Answer, ...]

    @property
    def words(self) -> str:
        """The condition as it is typed on the command line."""
        return f"{self.question}=" + "|".join(shown(value) for value in self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a template, which applies if ``when`` is true; ``default`` is the answer if there is no other."""

    name: str
    kind: Kind
    default: Answer
    help: str
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    when: tuple[Condition, ...] = ()

    @property
    def rule(self) -> str:
        """What an answer must be."""
        if self.kind == "choice":
            return "one of " + ", ".join(f"`{choice}`" for choice in self.choices)
        words = {"str": f"at most {_LONGEST_ANSWER} printable characters", "int": "a whole number"}
        rule = words.get(self.kind, "`true` or `false`")
        return f"{rule} that matches `{self.pattern}`" if self.pattern else rule

    def parse(self, text: str) -> Answer:
        """Read an answer as it was typed; raise ``ValueError`` with the rule that it breaks."""
        answer = self._convert(text)
        if isinstance(answer, str) and (len(answer) > _LONGEST_ANSWER or not answer.isprintable()):
            raise ValueError(self.rule)
        if self.choices and answer not in self.choices:
            raise ValueError(self.rule)
        if self.pattern and not re.fullmatch(self.pattern, str(answer)):
            raise ValueError(self.rule)
        return answer

    def _convert(self, text: str) -> Answer:
        if self.kind == "bool":
            if text.lower() not in (*_TRUE, *_FALSE):
                raise ValueError(self.rule)
            return text.lower() in _TRUE
        if self.kind == "int":
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError(self.rule)
            return int(text)
        return text


def shown(answer: Answer) -> str:
    """Return an answer as it is typed on the command line."""
    return str(answer).lower() if isinstance(answer, bool) else str(answer)


def hold(conditions: Iterable[Condition], answers: Mapping[str, Answer]) -> bool:
    """Return whether every condition is true; ``True`` and ``1`` are different answers."""
    return all(
        any(type(answers[c.question]) is type(value) and answers[c.question] == value for value in c.values)
        for c in conditions
    )


def read_questions(entries: tuple[Fields, ...]) -> tuple[Question, ...]:
    """Read all questions of a manifest; the condition of each refers to earlier ones."""
    questions: list[Question] = []
    for entry in entries:
        question = _question(entry, tuple(questions))
        if question.name in [each.name for each in questions]:
            raise entry.fault("name", "each name once", question.name)
        questions.append(question)
    return tuple(questions)


def read_conditions(entry: Fields, questions: tuple[Question, ...]) -> tuple[Condition, ...]:
    """Read ``when`` of an entry: answers by question, one or a list of them."""
    when = entry.optional("when")
    if when is None:
        return ()
    by_name = {question.name: question for question in questions}
    conditions = []
    for name in when.value:
        if name not in by_name:
            raise when.fault(str(name), "an earlier question", name)
        conditions.append(Condition(question=name, values=when.need(name, partial(_read_values, by_name[name]))))
    return tuple(conditions)


def _question(entry: Fields, before: tuple[Question, ...]) -> Question:
    refuse_keys(entry, _KEYS)
    kind: Kind = entry.need("type", one_of(get_args(Kind)))
    question = Question(
        name=entry.need("name", read_question_name),
        kind=kind,
        default=entry.need("default", partial(_read_answer, kind)),
        help=entry.need("help", read_line),
        choices=entry.list_of("choices", read_line, optional=True),
        pattern=entry.get("pattern", read_pattern),
        when=read_conditions(entry, before),
    )
    if bool(question.choices) != (question.kind == "choice"):
        raise entry.fault("choices", "choices for the type `choice`, and only for it", question.kind)
    try:
        question.parse(str(question.default))
    except ValueError as error:
        raise entry.fault("default", str(error), question.default) from error
    return question


def _read_answer(kind: Kind, value: object) -> Answer:
    if type(value) is not _KINDS[kind]:
        raise WrongValue(f"a default of the type `{kind}`")
    return cast("Answer", value)


def _read_values(question: Question, value: object) -> tuple[Answer, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(_answers(question, each) for each in values):
        raise WrongValue(f"answers to `{question.name}`: {question.rule}")
    return tuple(values)


def _answers(question: Question, value: object) -> bool:
    if type(value) is not _KINDS[question.kind]:
        return False
    try:
        question.parse(str(value))
    except ValueError:
        return False
    return True


COMMON_GROUPS = "groups.yml"
ALL = "all"
_COMMON_KEYS = {"name", "help", "default", "files", "conda"}
_GROUPS_KEYS = _COMMON_KEYS | {"when"}


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
        refuse_keys(entry, _GROUPS_KEYS)
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
