"""Write the versioned JSON envelope that every command prints with ``--json``."""

from __future__ import annotations

import json

from envforge.errors import EnvforgeError

SCHEMA_VERSION = 1

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


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
