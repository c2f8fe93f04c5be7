"""Choose variants of a template for a trial, so that each possible pair of answers and groups occurs in one of them.

Strings and numbers keep their default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from envforge.project.questions import Answer, Condition, Question, shown
from envforge.project.templates import Template

_Pair: TypeAlias = frozenset[tuple[str, Answer]]
_GROUP = "with "  # no question has a space in its name


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One combination: all answers, and the selected groups."""

    answers: tuple[tuple[str, Answer], ...]
    groups: tuple[str, ...]

    def words(self, template: Template) -> str:
        """Return the options that select it, without those that match the defaults."""
        defaults = {question.name: question.default for question in template.questions}
        options = [f"--var {name}={shown(answer)}" for name, answer in self.answers if answer != defaults[name]]
        on, default = set(self.groups), set(template.default_groups(dict(self.answers)))
        order = [group.name for group in template.groups]
        for option, names in (("--with", on - default), ("--without", default - on)):
            options += [f"{option} {','.join(sorted(names, key=order.index))}"] if names else []
        return " ".join(options) or "(defaults)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """One choice; values other than the first require that ``when`` holds."""

    name: str
    values: tuple[Answer, ...]
    when: tuple[Condition, ...]


def pairwise(template: Template) -> tuple[Variant, ...]:
    """Return the variant of all defaults first, then variants that cover the remaining pairs."""
    choices = _choices(template)
    rows = [{choice.name: choice.values[0] for choice in choices}]
    default = {*template.default_groups({question.name: question.default for question in template.questions})}
    rows[0] |= {_GROUP + group.name: group.name in default for group in template.groups}
    left = {pair for pair in _all_pairs(choices) if _complete(pair, choices, set()) is not None} - _pairs(rows[0])
    while left:
        first = min(left, key=lambda pair: sorted((name, shown(value)) for name, value in pair))
        row = _complete(first, choices, left)
        if row is not None:
            rows.append(row)
            left -= _pairs(row)
        left.discard(first)
    return tuple(_variant(template, row) for row in rows)


def _variant(template: Template, row: Mapping[str, Answer]) -> Variant:
    return Variant(
        answers=tuple((q.name, row.get(q.name, q.default)) for q in template.questions),
        groups=tuple(group.name for group in template.groups if row[_GROUP + group.name]),
    )


def _choices(template: Template) -> tuple[_Choice, ...]:
    asked = [
        _Choice(name=question.name, values=_values(question), when=question.when) for question in template.questions
    ]
    groups = [_Choice(name=_GROUP + group.name, values=(False, True), when=group.when) for group in template.groups]
    return (*asked, *groups)


def _values(question: Question) -> tuple[Answer, ...]:
    others: tuple[Answer, ...] = question.choices if question.kind == "choice" else ()
    if question.kind == "bool":
        others = (False, True)
    return (question.default, *(value for value in others if value != question.default))


def _all_pairs(choices: tuple[_Choice, ...]) -> Iterator[_Pair]:
    if len(choices) == 1:
        yield from (frozenset({(choices[0].name, value)}) for value in choices[0].values)
    for one, other in combinations(choices, 2):
        yield from (frozenset({(one.name, a), (other.name, b)}) for a in one.values for b in other.values)


def _pairs(row: Mapping[str, Answer]) -> set[_Pair]:
    singles = {frozenset({item}) for item in row.items()}
    return singles | {frozenset(two) for two in combinations(row.items(), 2)}


def _complete(fixed: _Pair, choices: tuple[_Choice, ...], wanted: set[_Pair]) -> dict[str, Answer] | None:
    """Return a row with the fixed values that covers many of the ``wanted`` pairs; ``None`` if none is possible."""
    row = dict(fixed)
    by_name = {choice.name: choice for choice in choices}
    open_names = list(row)
    while open_names:
        choice = by_name[open_names.pop()]
        for condition in choice.when if row[choice.name] != choice.values[0] else ():
            if condition.question not in row:
                row[condition.question] = condition.values[0]
                open_names.append(condition.question)
            elif row[condition.question] not in condition.values:
                return None
    for choice in choices:
        if choice.name not in row:
            row[choice.name] = _best(choice, row, wanted)
    return {choice.name: row[choice.name] for choice in choices}


def _best(choice: _Choice, row: Mapping[str, Answer], wanted: set[_Pair]) -> Answer:
    """Return the possible value that covers most of the ``wanted`` pairs in the row so far."""
    holds = all(row.get(condition.question) in condition.values for condition in choice.when)
    possible = choice.values if holds else choice.values[:1]
    return max(possible, key=lambda value: len(_pairs({**row, choice.name: value}) & wanted))
