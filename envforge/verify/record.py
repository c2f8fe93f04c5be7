"""The record: all that was observed, as one versioned JSON document that can be judged again elsewhere.

Enters and leaves: a ``Record``, to JSON and back. A damaged or foreign one raises ``RecordError`` with the
path of the fault. The dataclasses are read and written by pydantic, which also gives the JSON Schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from envforge.errors import EnvforgeError
from envforge.report import Json
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.training.facts import TrainingFacts

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RECORD = "envforge-verify"
RECORD_VERSION = 1


class RecordError(EnvforgeError):
    """A record of ``verify`` that cannot be read as what it claims to be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectFacts:
    """The project and its lock, as far as they are there; ``lock_unreadable`` says why a lock is not counted."""

    name: str | None = None
    package: str | None = None
    template: str | None = None
    variant: str | None = None
    lock_file: str | None = None
    lock_sha256: str | None = None
    lock_needs: str | None = None
    lock_unreadable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one run of ``verify`` observed; a question that was not asked is None. ``own`` holds a team's checks."""

    record: Literal["envforge-verify"] = "envforge-verify"
    record_version: Literal[1] = 1
    envforge: str
    created_at: datetime
    project: ProjectFacts | None = None
    machine: MachineFacts | None = None
    environment: EnvironmentFacts | None = None
    training: TrainingFacts | None = None
    own: dict[str, Any] = field(default_factory=dict)


def record_to_json(record: Record) -> dict[str, Json]:
    """The record as JSON values."""
    return cast("dict[str, Json]", _adapter().dump_python(record, mode="json"))


def record_schema() -> dict[str, Any]:
    """The JSON Schema of the record."""
    return _adapter().json_schema(mode="serialization")


def read_record(text: str, where: str) -> Record:
    """Read a record, or the output of ``verify --json``; ``where`` names it in errors."""
    from pydantic import ValidationError  # noqa: PLC0415 - heavy, and only `verify` needs it

    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(
            f"the record `{where}` is damaged: wanted JSON, found: {error}",
            hint="make it again on that machine: envforge verify --json > record.json",
            code="record-damaged",
        ) from error
    if isinstance(value, dict) and "schema_version" in value and "record" not in value:
        result = value.get("result")
        value = result.get("record") if isinstance(result, dict) else result
    if not isinstance(value, dict) or value.get("record") != RECORD:
        raise RecordError(
            f"`{where}` is no record of verify: wanted `record` to be `{RECORD}`",
            hint="make one on that machine: envforge verify --json > record.json",
            code="record-foreign",
        )
    if value.get("record_version") != RECORD_VERSION:
        raise RecordError(
            f"the record `{where}` has record_version `{value.get('record_version')}`: wanted `{RECORD_VERSION}`",
            hint="it comes from another envforge; pip install --upgrade envforge",
            code="record-version",
        )
    try:
        return _adapter().validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise RecordError(
            f"the record `{where}` is damaged at `{path}`: {first['msg']}, found `{str(first['input'])[:80]}`",
            hint="make it again on that machine: envforge verify --json > record.json",
            code="record-damaged",
        ) from error


@cache
def _adapter() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - heavy, and only `verify` needs it

    return TypeAdapter(Record)
