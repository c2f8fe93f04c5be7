"""Change every string within a value, quote paths for a shell, and build commands."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

T = TypeVar("T")
_PLAIN = re.compile(r"~?[\w@%+=:,./-]+")


def change_texts(value: T, change: Callable[[str], str]) -> T:
    """Return a copy of a value of dataclasses, tuples, lists, and dicts with each string changed, but no dict key."""
    return cast("T", _changed(value, change))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if type(value) is str:  # not a member of a string enumeration
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields})
    return value


def quoted(path: str) -> str:
    """Quote a path for a shell; ``~`` at its start keeps its meaning."""
    if _PLAIN.fullmatch(path):
        return path
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def lock_command(platforms: Iterable[str]) -> str:
    """Return the command that locks these platforms."""
    return " ".join(["envforge lock", *(f"-p {shlex.quote(name)}" for name in platforms)])
