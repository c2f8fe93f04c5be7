"""Collect and check the answers to a template's questions."""

from __future__ import annotations

from collections.abc import Callable

from envforge.errors import Hint, RequestError, printable
from envforge.nearest import nearest
from envforge.project.questions import Answer, Question, hold, shown
from envforge.project.templates import Template


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
