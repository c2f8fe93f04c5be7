"""Every text within a value, however deep. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def change_texts(value: T, change: Callable[[str], str]) -> T:
    """A copy of a value of frozen dataclasses, tuples, lists and dicts in which each text is changed; keys stay."""
    return cast("T", _changed(value, change))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if type(value) is str:  # not an enumeration's member
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields})
    return value
