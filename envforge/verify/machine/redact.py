"""Remove user, host name, UUIDs, and home directories from the facts of a machine."""

from __future__ import annotations

import re
from dataclasses import replace

from envforge.base.redact import change_texts
from envforge.machine.record import machine_from_json, machine_to_json, redact
from envforge.verify.machine.facts import MachineFacts

_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]*")
_HOME = re.compile(r"(/home|/Users|[A-Z]:\\Users)[/\\][^/\\\s:;,\"'`]+|/root(?=/|$)")


def redacted(facts: MachineFacts) -> MachineFacts:
    """Return the facts without identifying values; every fact that a check uses is kept."""
    machine = machine_from_json(facts.machine, "the record")
    host = re.compile(rf"\b{re.escape(machine.hostname)}\b") if machine.hostname else None

    def clean(text: str) -> str:
        text = _HOME.sub("~", _UUID.sub(r"\1-...", text))
        return host.sub("...", text) if host else text

    return replace(change_texts(facts, clean), machine=dict(machine_to_json(redact(machine))))
