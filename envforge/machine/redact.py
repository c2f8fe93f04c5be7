"""Redact a machine record for publication: no UUIDs, no host name, no user names."""

from __future__ import annotations

import dataclasses
import re

from envforge.machine import Condition, Gpu, Machine, Override

_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]*")
_HOME = re.compile(r"(/home|/Users|[A-Z]:\\Users)[/\\][^/\\\s]+")


def redact(machine: Machine) -> Machine:
    """Return the machine without what identifies it; every fact that a build depends on is kept."""
    return dataclasses.replace(
        machine,
        hostname=None,
        gpus=tuple(_gpu(gpu) for gpu in machine.gpus),
        overrides=tuple(
            Override(variable=item.variable, value=_text(machine, item.value)) for item in machine.overrides
        ),
        conditions=tuple(_condition(machine, item) for item in machine.conditions),
        sources=tuple((fact, _text(machine, source)) for fact, source in machine.sources if fact != "hostname"),
    )


def _gpu(gpu: Gpu) -> Gpu:
    slices = tuple(dataclasses.replace(device, uuid=None) for device in gpu.mig_devices)
    return dataclasses.replace(gpu, uuid=None, mig_devices=slices)


def _condition(machine: Machine, condition: Condition) -> Condition:
    return Condition(
        code=condition.code,
        symptom=_text(machine, condition.symptom),
        cause=_text(machine, condition.cause),
        remedy=_text(machine, condition.remedy),
    )


def _text(machine: Machine, text: str) -> str:
    text = _HOME.sub("~", _UUID.sub(r"\1-...", text))
    return re.sub(rf"\b{re.escape(machine.hostname)}\b", "...", text) if machine.hostname else text
