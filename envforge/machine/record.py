"""Read and write machine records, and redact them for publication.

An invalid record raises ``MachineRecordError`` with its file and the path inside it. A missing field is unknown.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from packaging.version import Version

from envforge.base.envelope import Json
from envforge.base.records import (
    Document,
    Fields,
    WrongValue,
    read_boolean,
    read_capability,
    read_integer,
    read_natural,
    read_string,
    read_texts,
    read_version,
    show_as_json,
)
from envforge.base.redact import Identity, change_texts, redactor
from envforge.base.terms import ComputeCapability
from envforge.errors import EnvforgeError, Hint
from envforge.machine.values import Condition, Driver, Gpu, Machine, MigDevice, Override, driver_text

RECORD = "envforge-machine"
RECORD_VERSION = 1
RECORD_COMMAND = "envforge detect --json > machine.json"

_PLATFORM = re.compile(r"[a-z]+-[a-z0-9_]+")


class MachineRecordError(EnvforgeError):
    """A machine record that can't be parsed."""


def machine_to_json(machine: Machine) -> dict[str, Json]:
    """Return the record of a machine; the same machine produces the same bytes."""
    driver = machine.driver
    return {
        "record": RECORD,
        "record_version": RECORD_VERSION,
        "platform": machine.platform,
        "python": str(machine.python),
        "glibc": _text(machine.glibc),
        "driver": None
        if driver is None
        else {
            "kernel_version": _driver(driver.kernel_version),
            "user_version": _driver(driver.user_version),
            "cuda": _text(driver.cuda),
        },
        "gpus": [_gpu_to_json(gpu) for gpu in machine.gpus],
        "visible": None if machine.visible is None else list(machine.visible),
        "capability_override": _text(machine.capability_override),
        "container": machine.container,
        "is_wsl": machine.is_wsl,
        "hostname": machine.hostname,
        "overrides": [{"variable": item.variable, "value": item.value} for item in machine.overrides],
        "conditions": [
            {"code": item.code, "symptom": item.symptom, "cause": item.cause, "remedy": item.remedy}
            for item in machine.conditions
        ],
        "sources": dict(machine.sources),
    }


def _gpu_to_json(gpu: Gpu) -> dict[str, Json]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "compute_capability": _text(gpu.compute_capability),
        "uuid": gpu.uuid,
        "memory_bytes": gpu.memory_bytes,
        "mig_enabled": gpu.mig_enabled,
        "pci_bus_id": gpu.pci_bus_id,
        "mig_devices": [
            {"name": device.name, "uuid": device.uuid, "memory_bytes": device.memory_bytes}
            for device in gpu.mig_devices
        ],
    }


def _text(value: Version | ComputeCapability | None) -> str | None:
    return None if value is None else str(value)


def _driver(version: Version | None) -> str | None:
    return None if version is None else driver_text(version)


def read_machine(path: Path) -> Machine:
    """Read a record from a file: the record itself, or the output of ``envforge detect --json``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineRecordError(
            f"cannot read the machine record `{path}`: {error}",
            hint="to create a record on that machine",
            command=RECORD_COMMAND,
            code="machine-unreadable",
        ) from error
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _document(str(path)).fault("", "JSON", str(error)) from error
    if isinstance(value, dict) and "record" not in value and "schema_version" in value:
        if value.get("ok") is not True:
            raise _document(str(path)).fault("ok", "true (the output of a successful detection)", value.get("ok"))
        value = value.get("result")
    return machine_from_json(value, str(path))


def machine_from_json(value: object, where: str) -> Machine:
    """Parse a record; ``where`` names it in errors. Raise ``MachineRecordError`` if it is invalid."""
    top = Fields(_document(where), "", value)
    if top.get("record", read_string) != RECORD:
        raise top.fault("record", f"`{RECORD}`", top.raw("record"))
    version = top.get("record_version", read_integer)
    if version != RECORD_VERSION:
        from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

        newer = isinstance(version, int) and version > RECORD_VERSION
        raise MachineRecordError(
            f"unknown `record_version` in the machine record `{where}`: expected `{RECORD_VERSION}`, found `{version}`",
            hint="to read records of newer versions" if newer else "to create the record again on that machine",
            command=upgrade_command() if newer else RECORD_COMMAND,
            code="machine-record-version",
        )
    driver = top.optional("driver")
    machine = Machine(
        platform=top.need("platform", _platform),
        python=top.need("python", read_version),
        glibc=top.get("glibc", read_version),
        driver=None if driver is None else _driver_from_json(driver),
        gpus=tuple(_gpu_from_json(item) for item in top.items("gpus", optional=True)),
        visible=top.get("visible", _indices),
        capability_override=top.get("capability_override", read_capability),
        container=top.get("container", read_string),
        is_wsl=top.get("is_wsl", read_boolean) or False,
        hostname=top.get("hostname", read_string),
        overrides=tuple(_override_from_json(item) for item in top.items("overrides", optional=True)),
        conditions=tuple(_condition_from_json(item) for item in top.items("conditions", optional=True)),
        sources=top.get("sources", read_texts) or (),
    )
    top.refuse_others()
    _check_indices(machine, top)
    return machine


def _check_indices(machine: Machine, top: Fields) -> None:
    known = [gpu.index for gpu in machine.gpus]
    for position, index in enumerate(known):
        if index in known[:position]:
            raise top.fault(f"gpus[{position}].index", "a unique GPU number", index)
    for position, index in enumerate(machine.visible or ()):
        if index not in known:
            raise top.fault(f"visible[{position}]", "the index of a GPU in `gpus`", index)


def _driver_from_json(fields: Fields) -> Driver:
    driver = Driver(
        kernel_version=fields.get("kernel_version", read_version),
        user_version=fields.get("user_version", read_version),
        cuda=fields.get("cuda", read_version),
    )
    fields.refuse_others()
    return driver


def _gpu_from_json(fields: Fields) -> Gpu:
    gpu = Gpu(
        index=fields.need("index", read_natural),
        name=fields.need("name", read_string),
        compute_capability=fields.get("compute_capability", read_capability),
        uuid=fields.get("uuid", read_string),
        memory_bytes=fields.get("memory_bytes", read_natural),
        mig_enabled=fields.get("mig_enabled", read_boolean),
        pci_bus_id=fields.get("pci_bus_id", read_string),
        mig_devices=tuple(_mig_from_json(item) for item in fields.items("mig_devices", optional=True)),
    )
    fields.refuse_others()
    return gpu


def _mig_from_json(fields: Fields) -> MigDevice:
    device = MigDevice(
        name=fields.get("name", read_string),
        uuid=fields.get("uuid", read_string),
        memory_bytes=fields.get("memory_bytes", read_natural),
    )
    fields.refuse_others()
    return device


def _override_from_json(fields: Fields) -> Override:
    override = Override(variable=fields.need("variable", read_string), value=fields.need("value", read_string))
    fields.refuse_others()
    return override


def _condition_from_json(fields: Fields) -> Condition:
    condition = Condition(
        code=fields.need("code", read_string),
        symptom=fields.need("symptom", read_string),
        cause=fields.need("cause", read_string),
        remedy=fields.need("remedy", read_string),
    )
    fields.refuse_others()
    return condition


def _document(where: str) -> Document:
    return Document(
        damaged=f"the machine record `{where}` is invalid",
        error=MachineRecordError,
        code="machine-damaged",
        hints=lambda: (Hint("to create the record again on that machine", RECORD_COMMAND),),
        mapping="an object",
        show=show_as_json,
    )


def _platform(value: object) -> str:
    if not isinstance(value, str) or not _PLATFORM.fullmatch(value):
        raise WrongValue("a conda platform such as `linux-64`")
    return value


def _indices(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise WrongValue("a list of GPU numbers")
    return tuple(read_natural(item) for item in value)


def redact(machine: Machine) -> Machine:
    """Return the machine without what identifies it; every fact that a build depends on is kept."""
    cleaned = change_texts(machine, redactor(Identity(hosts=(machine.hostname or "",))))
    sources = tuple((fact, source) for fact, source in cleaned.sources if fact != "hostname")
    return dataclasses.replace(cleaned, hostname=None, sources=sources)
