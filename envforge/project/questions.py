"""The questions of a template, and the conditions of entries in its manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

from envforge.fields import Fields, WrongValue, one_of
from envforge.project.readers import read_line, read_pattern, read_question_name, refuse_keys

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
