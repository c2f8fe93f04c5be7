"""Convert a selection to plain data for templates: strings, numbers, lists, and mappings.

Templates see it as ``selection``, and have no access to other objects of envforge.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

from envforge.selection import Selection

# objects with methods were the way out of the sandbox in similar tools, so templates see only plain data
_LEFT_OUT = ("accepted", "refused")  # hundreds of builds, which no generated file needs


def plain_selection(selection: Selection) -> dict[str, Any]:
    """Return the fields of the selection by name; versions, tags, and platforms are strings."""
    return {
        field.name: _plain(getattr(selection, field.name))
        for field in dataclasses.fields(selection)
        if field.name not in _LEFT_OUT
    } | {"build": _build(selection)}


def _build(selection: Selection) -> dict[str, Any]:
    build = selection.build
    fields = {field.name: _plain(getattr(build, field.name)) for field in dataclasses.fields(build)}
    cuda = build.tag.cuda
    return fields | {"pins": dict(build.pins), "cuda": None if cuda is None else str(cuda)}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Enum):
        return {"name": value.name, "value": value.value}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value)
