"""Write everything that was observed to one versioned JSON document, and read it back.

pydantic reads the dataclasses and provides the JSON Schema. An invalid record raises ``RecordError`` with the path of
the first invalid value.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from envforge.base.distribution import upgrade_command
from envforge.base.envelope import Json
from envforge.errors import EnvforgeError
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.values import Cost, Question

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RECORD = "envforge-verify"
RECORD_VERSION = 1
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
_AGAIN = "to create the record on that machine"
_RECORD_COMMAND = "envforge verify --json > record.json"


class RecordError(EnvforgeError):
    """A record of ``verify`` that can't be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectFacts:
    """The project and its lockfile; ``lock_unreadable`` is the reason why a lockfile is not used."""

    name: str | None = None
    package: str | None = None
    template: str | None = None
    variant: str | None = None
    lock_file: str | None = None
    lock_sha256: str | None = None
    lock_platforms: tuple[str, ...] = ()
    lock_needs: str | None = None
    lock_unreadable: str | None = None
    lock_command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was requested. ``explicit`` holds the requested questions; if it is empty, envforge selected them.

    ``only`` and ``skip`` are checks or groups. ``machine`` is the value of ``--machine``, or empty.
    """

    explicit: tuple[Question, ...] = ()
    depth: Cost = "default"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    machine: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotObserved:
    """A question, or a team's check, without facts, and the command that helps.

    ``absent``: there is nothing to observe; ``unfinished``: an install was interrupted; ``broken``: the observer
    raised; ``late``: it ran out of time.
    """

    what: str
    why: Literal["absent", "unfinished", "broken", "late"]
    reason: str
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A question that was observed, and how long that took."""

    what: Question
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one run of ``verify`` observed; a question without facts is None. ``own`` holds facts of a team's checks."""

    record: Literal["envforge-verify"] = "envforge-verify"
    record_version: Literal[1] = 1
    envforge: str
    created_at: datetime
    asked: Asked = field(default_factory=Asked)
    observed: tuple[Observed, ...] = ()
    not_observed: tuple[NotObserved, ...] = ()
    redacted: bool = False
    project: ProjectFacts | None = None
    machine: MachineFacts | None = None
    environment: EnvironmentFacts | None = None
    training: TrainingFacts | None = None
    own: dict[str, Any] = field(default_factory=dict)


def record_to_json(record: Record) -> dict[str, Json]:
    """Return the record as JSON values; numbers that JSON lacks become the strings NaN, Infinity, and -Infinity."""
    return cast("dict[str, Json]", _as_json(record))


def _as_json(value: Any) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_as_json(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _as_json(getattr(value, each.name)) for each in fields(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a record can't contain a `{type(value).__name__}`")


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of the record as ``record_to_json`` writes it."""
    return cast("dict[str, Any]", _with_texts_for_numbers(_adapter().json_schema(mode="serialization")))


def _with_texts_for_numbers(value: Any) -> Any:
    """Let every number be one of the strings that represent numbers that JSON lacks."""
    if isinstance(value, dict):
        changed = {key: _with_texts_for_numbers(item) for key, item in value.items()}
        if value.get("type") != "number":
            return changed
        return {"anyOf": [{"type": "number"}, {"enum": list(_NO_NUMBERS)}]} | {
            key: changed[key] for key in ("title", "default") if key in changed
        }
    return [_with_texts_for_numbers(item) for item in value] if isinstance(value, list) else value


def read_record(text: str, where: str) -> Record:
    """Read a record, or the output of ``verify --json``; ``where`` is its name in errors."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(
            f"invalid record `{where}`: expected JSON, found: {error}",
            hint=_AGAIN,
            command=_RECORD_COMMAND,
            code="record-damaged",
        ) from error
    if isinstance(value, dict) and "schema_version" in value and "record" not in value:
        result = value.get("result")
        value = result.get("record") if isinstance(result, dict) else result
    if not isinstance(value, dict) or value.get("record") != RECORD:
        raise RecordError(
            f"`{where}` is not a record of `verify`: expected `record` to be `{RECORD}`",
            hint=_AGAIN,
            command=_RECORD_COMMAND,
            code="record-foreign",
        )
    _check_version(value.get("record_version"), where)
    return record_from_json(value, where)


def record_from_json(value: object, where: str) -> Record:
    """Return a record from its JSON values; raise ``RecordError`` with the path of the first invalid value."""
    from pydantic import ValidationError  # noqa: PLC0415 - heavy, and only `verify` needs it

    try:
        return _adapter().validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise RecordError(
            f"invalid record `{where}` at `{path}`: {first['msg']}, found `{str(first['input'])[:80]}`",
            hint=_AGAIN,
            command=_RECORD_COMMAND,
            code="record-damaged",
        ) from error


def read_record_file(path: Path) -> Record:
    """Read a record from a file; raise ``RecordError`` if it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"failed to read the record `{path}`: {getattr(error, 'strerror', None) or error}",
            hint=_AGAIN,
            command=_RECORD_COMMAND,
            code="record-unreadable",
        ) from error
    return read_record(text, str(path))


def _check_version(version: object, where: str) -> None:
    if version == RECORD_VERSION and type(version) is int:
        return
    newer = type(version) is int and version > RECORD_VERSION
    raise RecordError(
        f"unsupported version of the record `{where}`: expected record_version `{RECORD_VERSION}`, found "
        f"`{str(version)[:80]}`" + (", written by a newer envforge" if newer else ""),
        hint="to upgrade envforge" if newer else _AGAIN,
        command=upgrade_command() if newer else _RECORD_COMMAND,
        code="record-version",
    )


@cache
def _adapter() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - heavy, and only `verify` needs it

    return TypeAdapter(Record)
