"""Facts that can be shown to strangers: no user, no host, no UUID, no path of a home folder.

Enters: ``MachineFacts``. Leaves: the same without what tells this machine from others of its kind.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

from envforge.machine.record import machine_from_json, machine_to_json
from envforge.machine.redact import redact
from envforge.verify.machine.facts import MachineFacts

_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]*")
_HOME = re.compile(r"(/home|/Users|[A-Z]:\\Users)[/\\][^/\\\s:;,\"'`]+|/root(?=/|$)")


def redacted(facts: MachineFacts) -> MachineFacts:
    """The facts without host name, UUIDs and home folders; every fact that a judgement rests on stays."""
    machine = machine_from_json(facts.machine, "the record")
    host = re.compile(rf"\b{re.escape(machine.hostname)}\b") if machine.hostname else None
    clean: MachineFacts = _walk(facts, host)
    return replace(clean, machine=dict(machine_to_json(redact(machine))))


def _walk(value: Any, host: re.Pattern[str] | None) -> Any:
    """Every text in a value of dataclasses, tuples and dicts, however deep."""
    if isinstance(value, str):
        text = _HOME.sub("~", _UUID.sub(r"\1-...", value))
        return host.sub("...", text) if host else text
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _walk(getattr(value, field.name), host) for field in fields(value)})
    if isinstance(value, tuple):
        return tuple(_walk(item, host) for item in value)
    if isinstance(value, dict):
        return {key: _walk(item, host) for key, item in value.items()}
    return value
