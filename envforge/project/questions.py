"""Describe the questions and the file groups of a template, and check the answers to them."""

from __future__ import annotations

import atexit
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Struct, field

from envforge.base.documents import Printable, matching
from envforge.errors import Hint, RequestError, printable

if TYPE_CHECKING:
    from envforge.base.confined import Confined

Answer = str | int | bool
When = dict[str, Answer | tuple[Answer, ...]]
"""Answers to earlier questions, one or several for each, with which an entry of a manifest exists."""
QuestionName = Annotated[str, matching(r"[a-z][a-z0-9_]{0,63}", "lowercase letters, digits, and `_`")]
GroupName = Annotated[
    str, matching(r"(?!all$)[a-z][a-z0-9-]{0,63}", "lowercase letters, digits, and `-`, and not `all`")
]
ALL = "all"
_TRUE = ("true", "yes", "y", "on", "1")
_FALSE = ("false", "no", "n", "off", "0")
_LONGEST_ANSWER = 200


class TemplateQuestion(Struct, frozen=True, kw_only=True):
    """One question of a template, which applies if ``when`` holds; ``default`` is the answer if there is no other."""

    name: QuestionName
    type: Literal["str", "int", "choice", "bool"]
    default: Answer
    help: Printable
    choices: tuple[Printable, ...] = ()
    pattern: Printable | None = None
    when: When = field(default_factory=dict)

    @property
    def rule(self) -> str:
        """What an answer must be."""
        if self.type == "choice":
            return "one of " + ", ".join(f"`{choice}`" for choice in self.choices)
        words = {"str": f"at most {_LONGEST_ANSWER} printable characters", "int": "a whole number"}
        rule = words.get(self.type, "`true` or `false`")
        return f"{rule} that matches `{self.pattern}`" if self.pattern else rule

    def parse(self, text: str) -> Answer:
        """Read an answer as it was typed; raise ``ValueError`` with the rule that it breaks."""
        answer = self._convert(text)
        if isinstance(answer, str) and (len(answer) > _LONGEST_ANSWER or not answer.isprintable()):
            raise ValueError(self.rule)
        if self.choices and answer not in self.choices:
            raise ValueError(self.rule)
        if self.pattern and not self.matches(self.pattern, str(answer)):
            raise ValueError(self.rule)
        return answer

    def accepts(self, value: Answer) -> bool:
        """Return whether a value of a manifest is an answer; ``True`` and ``1`` are different answers."""
        try:
            parsed = self.parse(shown(value))
        except ValueError:
            return False
        return type(parsed) is type(value)

    def matches(self, pattern: str, text: str) -> bool:
        """Return whether a text fully matches; raise an error of ``re`` if the pattern is invalid."""
        return re.fullmatch(pattern, text) is not None

    def _convert(self, text: str) -> Answer:
        if self.type == "bool":
            if text.lower() not in (*_TRUE, *_FALSE):
                raise ValueError(self.rule)
            return text.lower() in _TRUE
        if self.type == "int":
            # `int` would accept `1_000` and digits of other scripts, and TOML has 64 bits
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError(self.rule)
            return int(text)
        return text


@lru_cache(maxsize=1)
def _confined() -> Confined:
    from envforge.base.confined import Confined  # noqa: PLC0415 - few templates have patterns

    confined = Confined()
    atexit.register(confined.close)
    return confined


class ForeignQuestion(TemplateQuestion, frozen=True, kw_only=True):
    """A question of a third-party template, whose pattern may never finish."""

    def matches(self, pattern: str, text: str) -> bool:
        """Return the same from a child process, whose limits end it; raise ``TemplateError`` for an invalid pattern."""
        return _confined().matches(pattern, text)


def shown(answer: Answer) -> str:
    """Return an answer as it is typed on the command line."""
    return str(answer).lower() if isinstance(answer, bool) else str(answer)


def answers_of(value: Answer | tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Return the answers of one condition, which is one answer or several."""
    return value if isinstance(value, tuple) else (value,)


def conditions(when: When) -> list[str]:
    """Return each condition as it is typed on the command line, such as ``size=small|large``."""
    return [f"{name}=" + "|".join(shown(each) for each in answers_of(value)) for name, value in when.items()]


def hold(when: When, answers: Mapping[str, Answer]) -> bool:
    """Return whether every condition is true; ``True`` and ``1`` are different answers."""
    return all(
        any(type(answers[name]) is type(each) and answers[name] == each for each in answers_of(value))
        for name, value in when.items()
    )


class TemplateGroup(Struct, frozen=True, kw_only=True):
    """Files that a project has or leaves out together. ``files`` are paths of the template's or the common ``files``.

    ``conda`` are the packages that they need; ``when`` are the answers for which the group exists.
    """

    name: GroupName
    help: Printable
    default: bool = False
    files: tuple[PurePosixPath, ...] = ()
    conda: tuple[str, ...] = ()
    when: When = field(default_factory=dict)


def choose_groups(
    groups: tuple[TemplateGroup, ...], answers: Mapping[str, Answer], wanted: tuple[str, ...], unwanted: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of the groups that a project has, in the order of the template.

    ``wanted`` and ``unwanted`` are the values of ``--with`` and ``--without``: names, comma-separated, or ``all``.
    """
    # by the answers, which therefore come before the groups
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
            raise RequestError(
                f"the group `{group.name}` exists only with {_joined(group.when)}",
                hint=f"to add it, pass `--var {_first(group.when)}` too",
                code="group-not-possible",
            )
    more, less = ALL in _words(wanted), ALL in _words(unwanted)
    return tuple(
        group.name
        for group in possible
        if group.name in added or ((more or (group.default and not less)) and group.name not in removed)
    )


def _named(values: tuple[str, ...], option: str, groups: tuple[TemplateGroup, ...]) -> frozenset[str]:
    known = [group.name for group in groups]
    names = [name for name in _words(values) if name != ALL]
    for name in names:
        if name not in known:
            from envforge.base.suggest import nearest  # noqa: PLC0415 - only errors need it

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


def gather_answers(
    questions: tuple[TemplateQuestion, ...],
    variables: tuple[str, ...],
    ask: Callable[[TemplateQuestion], Answer] | None,
) -> tuple[tuple[str, Answer], ...]:
    """Answer every question: from ``variables``, else with ``ask``, else with its default.

    A question whose condition is false gets its default, and an answer to it raises ``RequestError``.
    """
    given = _given(questions, variables)
    answers: dict[str, Answer] = {}
    for question in questions:
        asked = hold(question.when, answers)
        if question.name in given and not asked:
            raise _not_asked(question)
        if question.name in given:
            answers[question.name] = given[question.name]
        else:
            answers[question.name] = ask(question) if ask and asked else question.default
    return tuple(answers.items())


def _given(questions: tuple[TemplateQuestion, ...], variables: tuple[str, ...]) -> dict[str, Answer]:
    by_name = {question.name: question for question in questions}
    given: dict[str, Answer] = {}
    for variable in variables:
        key, equals, text = variable.partition("=")
        if not equals:
            raise RequestError(
                f"`--var {printable(variable)}` is not of the form `KEY=VALUE`",
                hint=_example(questions),
                code="bad-variable",
            )
        if key not in by_name:
            raise _unknown(key, questions)
        if key in given:
            raise RequestError(
                f"`--var {key}` was provided twice",
                hint=f"to answer the question, pass `--var {key}=VALUE` once",
                code="bad-variable",
            )
        try:
            given[key] = by_name[key].parse(text)
        except ValueError as rule:
            raise RequestError(
                f"invalid answer `{printable(text)}` for `--var {key}`; expected {rule}",
                hint=f"to use the default, pass `--var {key}={shown(by_name[key].default)}`",
                code="bad-answer",
            ) from rule
    return given


def _unknown(key: str, questions: tuple[TemplateQuestion, ...]) -> RequestError:
    from envforge.base.suggest import nearest  # noqa: PLC0415 - as above

    names = [question.name for question in questions]
    near = nearest(key, names)
    known = ", ".join(f"`{name}`" for name in names) or "none"
    return RequestError(
        f"unknown question `{printable(key)}` for `--var`; the template has the questions: {known}",
        hint=f"did you mean `--var {near}=VALUE`?" if near else _example(questions),
        code="no-such-question",
    )


def _not_asked(question: TemplateQuestion) -> RequestError:
    return RequestError(
        f"`--var {question.name}` applies only with {_joined(question.when)}",
        hint=(
            Hint(f"to answer it, add `--var {_first(question.when)}`"),
            Hint(f"to create the project without it, omit `--var {question.name}`"),
        ),
        code="question-not-asked",
    )


def _example(questions: tuple[TemplateQuestion, ...]) -> str:
    if not questions:
        return "the template has no questions; omit `--var`"
    first = questions[0]
    return f"to answer a question, pass for example `--var {first.name}={shown(first.default)}`"


def _joined(when: When) -> str:
    return " and ".join(f"`{condition}`" for condition in conditions(when))


def _first(when: When) -> str:
    """Return the first answer with which all of an entry's first condition holds, as ``--var`` accepts it."""
    return conditions(when)[0].split("|")[0]
