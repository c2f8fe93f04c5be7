"""Convert values to JSON, and write the versioned envelope that every command prints with ``--json``."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from envforge.errors import EnvforgeError

SCHEMA_VERSION = 1

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def to_json(value: object, *, omit_none: bool = False) -> Json:
    """Return a value as JSON: structs as objects, tuples as lists, enums by value, versions and paths as strings.

    A number that isn't finite becomes None, because JSON has no such numbers. ``omit_none`` leaves out fields that are
    ``None``, because TOML has no null.
    """
    names = getattr(value, "__struct_fields__", None)  # `envforge --help` doesn't import msgspec
    if names is not None:
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        return {
            str(name): to_json(item, omit_none=omit_none)
            for name, item in value.items()
            if not (omit_none and item is None)
        }
    if isinstance(value, (tuple, list)):
        return [to_json(item, omit_none=omit_none) for item in value]
    if isinstance(value, (datetime, enum.Enum)):
        return value.isoformat() if isinstance(value, datetime) else to_json(value.value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def fields_to_json(value: Any, *without: str) -> dict[str, Json]:
    """Return the fields of a struct as JSON, except those named in ``without``."""
    return {name: to_json(getattr(value, name)) for name in value.__struct_fields__ if name not in without}


def success(command: str, result: Json) -> str:
    """Return the envelope of a command that succeeded."""
    return _envelope(command, ok=True, result=result)


def finding(command: str, result: Json) -> str:
    """Return the envelope of a check that ran and found problems: exit code 1, and the same result shape as success."""
    return _envelope(command, ok=False, result=result)


def failure(command: str, error: EnvforgeError) -> str:
    """Return the envelope of a command that failed."""
    return _envelope(command, ok=False, error=fault(error))


def fault(error: EnvforgeError) -> dict[str, Json]:
    """Return an error as JSON: its code, message, hint, and the commands of the hint."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "commands": list(error.commands),
    }


def _envelope(command: str, *, ok: bool, **body: Json) -> str:
    document: dict[str, Json] = {"schema_version": SCHEMA_VERSION, "command": command, "ok": ok, **body}
    return json.dumps(document, indent=2, ensure_ascii=False)
