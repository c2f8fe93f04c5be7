"""The answers to a template's questions, checked.

Enters: ``--var key=value`` texts and, for what they leave open, a way to ask. Leaves: one answer for each question in
the order of the template, or a ``RequestError`` that names the option and the rule.
"""

from __future__ import annotations

from collections.abc import Callable

from envforge.errors import RequestError
from envforge.nearest import nearest
from envforge.project.questions import Answer, Question, hold, shown
from envforge.project.templates import Template


def gather_answers(
    template: Template, variables: tuple[str, ...], ask: Callable[[Question], Answer] | None
) -> tuple[tuple[str, Answer], ...]:
    """Answer every question: from ``variables``, else by ``ask``, else by its default.

    A question whose condition does not hold has its default, and an answer to it is refused.
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
            raise RequestError(f"--var {variable!r} is not `key=value`", hint=_example(template), code="bad-variable")
        if key not in questions:
            raise _unknown(key, template)
        if key in given:
            raise RequestError(f"--var {key} is given twice", hint="give each answer once", code="bad-variable")
        try:
            given[key] = questions[key].parse(text)
        except ValueError as rule:
            raise RequestError(
                f"--var {key}: {text!r} is no answer; wanted {rule}",
                hint=f"the default is --var {key}={shown(questions[key].default)}",
                code="bad-answer",
            ) from rule
    return given


def _unknown(key: str, template: Template) -> RequestError:
    names = [question.name for question in template.questions]
    near = nearest(key, names)
    known = ", ".join(f"`{name}`" for name in names) or "none"
    return RequestError(
        f"--var {key!r}: the template `{template.name}` asks no such question; it asks {known}",
        hint=f"--var {near}=…" if near else _example(template),
        code="no-such-question",
    )


def _not_asked(question: Question) -> RequestError:
    conditions = " and ".join(f"`{condition.words}`" for condition in question.when)
    return RequestError(
        f"--var {question.name}: this is asked only with {conditions}",
        hint=f"leave it out, or add --var {question.when[0].words.split('|')[0]}",
        code="question-not-asked",
    )


def _example(template: Template) -> str:
    if not template.questions:
        return f"leave out --var: `{template.name}` asks nothing"
    first = template.questions[0]
    return f"for example --var {first.name}={shown(first.default)}"
