"""Write everything that was observed to one versioned JSON document, and read it back.

An invalid record raises ``RecordError`` with its file and the path of the first invalid value.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

from msgspec import Struct, field
from msgspec.structs import replace

from envforge.base.documents import Document
from envforge.base.envelope import Json, to_json
from envforge.base.files import regular
from envforge.base.redact import Identity, redact_texts, redactor
from envforge.errors import EnvforgeError
from envforge.machine.record import MachineRecordError, machine_from_json, machine_to_json
from envforge.pytorch.matrix import FactsId
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.values import Cost, Question, Report

RECORD = "envforge-verify"
RECORD_VERSION = 1
_AGAIN = "to create the record on that machine"
_RECORD_COMMAND = "envforge verify --json > record.json"


class RecordError(EnvforgeError):
    """A record of ``verify`` that can't be read."""


class ProjectFacts(Struct, frozen=True, kw_only=True):
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


class Asked(Struct, frozen=True, kw_only=True):
    """What was requested. ``explicit`` holds the requested questions; if it is empty, envforge selected them.

    ``only`` and ``skip`` are checks or groups. ``machine`` is the value of ``--machine``, or empty.
    """

    explicit: tuple[Question, ...] = ()
    depth: Cost = "default"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    machine: str = ""


class NotObserved(Struct, frozen=True, kw_only=True):
    """A question, or a team's check, without facts, and the command that helps.

    ``absent``: there is nothing to observe; ``unfinished``: an install was interrupted; ``broken``: the observer
    raised; ``late``: it ran out of time.
    """

    what: str
    why: Literal["absent", "unfinished", "broken", "late"]
    reason: str
    command: str = ""


class Observed(Struct, frozen=True, kw_only=True):
    """A question that was observed, and how long that took."""

    what: Question
    seconds: float


class Record(Struct, frozen=True, kw_only=True):
    """What one run of ``verify`` observed; a question without facts is None. ``own`` holds facts of a team's checks.

    ``refreshed_facts`` are the facts that are layered over the built-in ones of this version of envforge.
    """

    record: Literal["envforge-verify"] = "envforge-verify"
    record_version: Literal[1] = 1
    envforge: str
    refreshed_facts: FactsId | None = None
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
    """Return the record as JSON values. A number that isn't finite becomes null, as everywhere in the facts."""
    document = cast("dict[str, Json]", to_json(record))
    if record.machine is not None:
        machine = cast("dict[str, Json]", document["machine"])
        machine["machine"] = machine_to_json(record.machine.machine)
    return document


def read_record(text: str | bytes, where: str) -> Record:
    """Read a record, or the output of ``verify --json``; ``where`` is its name in errors."""
    damaged = f"the record `{where}` is invalid"
    document = Document(damaged=damaged, error=RecordError, code="record-damaged", hint=_AGAIN, command=_RECORD_COMMAND)
    value = document.read_json(text, dict[str, Any])
    # the envelope of `verify --json` contains the record
    if "schema_version" in value and "record" not in value:
        value = _mapping(_mapping(value.get("result")).get("record"))
    if value.get("record") != RECORD:
        message = f"`{where}` is not a record of `verify`: expected `record` to be `{RECORD}`"
        raise RecordError(message, hint=_AGAIN, command=_RECORD_COMMAND, code="record-foreign")
    _check_version(value.get("record_version"), where)
    return document.convert(_with_machine(value, where), Record)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_machine(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Replace the record of ``detect`` in a record by its ``Machine``, because that record has its own reader."""
    facts = _mapping(value.get("machine"))
    if "machine" not in facts:
        return value
    try:
        machine = machine_from_json(facts["machine"], f"{where}: machine.machine")
    except MachineRecordError as error:
        raise RecordError(error.message, hint=_AGAIN, command=_RECORD_COMMAND, code="record-damaged") from error
    return {**value, "machine": {**facts, "machine": machine}}


def read_record_file(path: Path) -> Record:
    """Read a record from a file; raise ``RecordError`` if it can't be read."""
    try:
        # PowerShell writes a byte order mark
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"failed to read the record `{path}`: {getattr(error, 'strerror', None) or error}"
        raise RecordError(message, hint=_AGAIN, command=_RECORD_COMMAND, code="record-unreadable") from error
    return read_record(text, str(path))


def _check_version(version: object, where: str) -> None:
    # in Python, `True == 1`
    if version == RECORD_VERSION and type(version) is int:
        return
    from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

    newer = type(version) is int and version > RECORD_VERSION
    raise RecordError(
        f"unsupported version of the record `{where}`: expected record_version `{RECORD_VERSION}`, found "
        f"`{str(version)[:80]}`" + (", written by a newer envforge" if newer else ""),
        hint="to upgrade envforge" if newer else _AGAIN,
        command=upgrade_command() if newer else _RECORD_COMMAND,
        code="record-version",
    )


def redact(report: Report, identity: Identity) -> Report:
    """Return the report without what identifies people and computers; its verdicts stay. See ``base.redact``."""
    machine = report.record.machine
    # the observed computer can be another one than this, which writes the report
    observed = machine.machine.hostname if machine is not None else None
    clean = redactor(replace(identity, hosts=(*identity.hosts, observed or "")))
    record, findings = redact_texts((report.record, report.findings), clean)
    if record.machine is not None:
        facts = replace(record.machine, machine=replace(record.machine.machine, hostname=None))
        record = replace(record, machine=facts)
    return Report(record=replace(record, redacted=True), findings=findings)
