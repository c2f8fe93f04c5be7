"""Load a machine: this computer, a record in a file, or a built-in profile; write records, and redact them.

An invalid record raises ``MachineRecordError`` with its file and the path inside it. A missing field is unknown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.envelope import Json, to_json
from envforge.base.terms import ComputeCapability
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.machine.gpu_tables import branch_cuda, named_capability
from envforge.machine.values import PYTHON, Driver, Gpu, Machine, driver_text

if TYPE_CHECKING:
    from envforge.base.documents import Document

RECORD = "envforge-machine"
RECORD_VERSION = 1
RECORD_COMMAND = "envforge detect --json > machine.json"

GLIBC = Version("2.35")

STDIN = "-"
_ENDINGS = (".json", ".txt", ".xml", ".csv", ".yaml", ".yml", ".log")
_MOST_BYTES = 16 << 20  # a cluster of hundreds of nodes as YAML has less
_OF_CLUSTERS = {"kind", "items", "nodes"}  # keys of Kubernetes and Slurm
_PLATFORM = re.compile(r"[a-z]+-[a-z0-9_]+")


class MachineRecordError(EnvforgeError):
    """A machine record that can't be parsed."""


def machine_to_json(machine: Machine) -> dict[str, Json]:
    """Return the record of a machine; the same machine produces the same bytes."""
    document: dict[str, Json] = {"record": RECORD, "record_version": RECORD_VERSION}
    document |= {name: to_json(getattr(machine, name)) for name in machine.__struct_fields__}
    if machine.driver is not None:
        kernel, user = machine.driver.kernel_version, machine.driver.user_version
        document["driver"] = {
            "kernel_version": driver_text(kernel) if kernel else None,
            "user_version": driver_text(user) if user else None,
            "cuda": to_json(machine.driver.cuda),
        }
    document["sources"] = dict(machine.sources)
    return document


def read_machine(path: Path) -> Machine:
    """Read a machine from a file: a record, or what `nvidia-smi`, Slurm, or Kubernetes printed of it."""
    from envforge.base.files import regular  # noqa: PLC0415 - `detect` reads no file

    try:
        with regular(path).open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MachineRecordError(
            f"cannot read the machine record `{path}`: {error}",
            hint="to create a record on that machine",
            command=RECORD_COMMAND,
            code="machine-unreadable",
        ) from error
    return parse_machine(content, str(path))


def parse_machine(content: bytes, where: str) -> Machine:
    """Parse a record, or what other tools print of a machine; ``where`` names it in errors."""
    from envforge.machine.described import decode  # noqa: PLC0415 - a profile and this computer need no text

    document = _document(where)
    if len(content) > _MOST_BYTES:
        raise document.fault("", f"at most {_MOST_BYTES >> 20} MiB", "more")
    text = decode(content)
    # a record and the JSON of clusters are objects; all other formats are text
    if text.lstrip()[:1] != "{":
        return _described(text, document)
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise document.fault("", "UTF-8", text.strip()[:80])
    value = document.read_json(text, dict[str, Any])
    if "record" in value:
        return machine_from_json(value, where)
    if "schema_version" not in value:
        # without the key that identifies a record, it may still be an incomplete one
        return _described(text, document) if value.keys() & _OF_CLUSTERS else machine_from_json(value, where)
    if value.get("ok") is not True:
        raise document.fault("ok", "true (the output of a successful detection)", value.get("ok"))
    return machine_from_json(value.get("result"), where)


def _described(text: str, document: Document) -> Machine:
    from envforge.machine.described import describe  # noqa: PLC0415 - as above
    from envforge.machine.values import TextFormatError  # noqa: PLC0415 - as above

    def structured(source: str) -> object:
        return document.read_json(source, Any) if source.lstrip()[:1] == "{" else document.read_yaml(source, Any)

    try:
        found = describe(text, structured)
    except TextFormatError as error:
        raise document.fault("", error.expected, error.found) from error
    if found is None:
        expected = "a machine record, or what `nvidia-smi`, Slurm, or Kubernetes prints of a machine"
        raise document.fault("", expected, text.strip()[:80])
    return found


def machine_from_json(value: object, where: str) -> Machine:
    """Parse a record; ``where`` names it in errors. Raise ``MachineRecordError`` if it is invalid."""
    document = _document(where)
    # null is the same as a missing field
    top = {name: item for name, item in document.convert(value, dict[str, Any]).items() if item is not None}
    if top.get("record") != RECORD:
        raise document.fault("record", f"`{RECORD}`", top.get("record"))
    _check_version(top.get("record_version"), where)
    sources = document.convert(top.get("sources", {}), dict[str, str], "sources")
    fields = {name: item for name, item in top.items() if name not in ("record", "record_version")}
    machine = document.convert({**fields, "sources": [[*item] for item in sources.items()]}, Machine)
    _check(machine, document)
    return machine


def _with_capabilities(machine: Machine) -> Machine:
    """Return the machine with the compute capabilities that the names of its GPUs imply."""
    capabilities = [gpu.compute_capability or named_capability(gpu.name) for gpu in machine.gpus]
    gpus = zip(machine.gpus, capabilities, strict=True)
    return msgspec.structs.replace(
        machine, gpus=tuple(msgspec.structs.replace(gpu, compute_capability=known) for gpu, known in gpus)
    )


def _check_version(version: object, where: str) -> None:
    if version == RECORD_VERSION:
        return
    from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

    newer = isinstance(version, int) and version > RECORD_VERSION
    raise MachineRecordError(
        f"unknown `record_version` in the machine record `{where}`: expected `{RECORD_VERSION}`, found `{version}`",
        hint="to read records of newer versions" if newer else "to create the record again on that machine",
        command=upgrade_command() if newer else RECORD_COMMAND,
        code="machine-record-version",
    )


def _check(machine: Machine, document: Document) -> None:
    """Check what types don't say; ``Machine`` states no patterns, because `detect` starts faster without msgspec."""
    if not _PLATFORM.fullmatch(machine.platform):
        raise document.fault("platform", "a conda platform such as `linux-64`", machine.platform)
    known = [gpu.index for gpu in machine.gpus]
    for position, gpu in enumerate(machine.gpus):
        if gpu.index < 0 or gpu.index in known[:position]:
            raise document.fault(f"gpus[{position}].index", "a unique GPU number", gpu.index)
        if (gpu.memory_bytes or 0) < 0:
            raise document.fault(f"gpus[{position}].memory_bytes", "a number that is not negative", gpu.memory_bytes)
    for position, index in enumerate(machine.visible or ()):
        if index not in known:
            raise document.fault(f"visible[{position}]", "the index of a GPU in `gpus`", index)


def _document(where: str) -> Document:
    from envforge.base.documents import Document  # noqa: PLC0415 - slow to import, and `detect` only writes records

    return Document(
        damaged=f"the machine record `{where}` is invalid",
        error=MachineRecordError,
        code="machine-damaged",
        hint="to create the record again on that machine",
        command=RECORD_COMMAND,
        closed=True,
    )


class _Profile(Struct, frozen=True, kw_only=True):
    """A table of ``profiles.toml``; without ``driver`` it describes a machine without a GPU."""

    platform: str = "linux-64"
    name: str = ""
    compute_capability: ComputeCapability | None = None
    memory_mib: int = 0
    driver: Version | None = None
    driver_source: str = ""


def load_machine(spec: str | None, environment: Mapping[str, str]) -> Machine:
    """Return the machine that ``--machine`` names; ``None`` probes this computer.

    The variables of ``environment`` describe this computer and don't apply to a record or a profile. ``-`` is standard
    input. A name with a path separator or an extension of a file is a file, and so is every name of an existing file
    that is no profile. Raises RequestError for a name that is neither, MachineRecordError for an invalid file.
    """
    if spec is None:
        from envforge.machine.probe import probe  # noqa: PLC0415 - a record needs no probing
        from envforge.machine.world import World  # noqa: PLC0415 - a record needs no probing

        return probe(World.here(environment))
    if spec == STDIN:
        return _with_capabilities(parse_machine(_stdin(), "standard input"))
    from envforge.base.data_files import read_data  # noqa: PLC0415 - only a profile needs it

    profiles = read_data("profiles.toml", dict[str, _Profile])
    if spec in profiles:
        return _profile_machine(spec, profiles[spec])
    path = Path(spec)
    if path.is_file() or "/" in spec or "\\" in spec or spec.lower().endswith(_ENDINGS):
        return _with_capabilities(read_machine(path))
    from envforge.base.suggest import nearest  # noqa: PLC0415 - only the error needs it

    near = nearest(spec.lower(), profiles)
    record = Hint("to create a record on that machine", RECORD_COMMAND)
    raise RequestError(
        f"`{spec}` is not a machine record or a known profile; available profiles: {', '.join(profiles)}",
        hint=(Hint(f"did you mean `--machine {near}`?") if near else record,),
        code="no-such-machine",
    )


def _stdin() -> bytes:
    """Read standard input; a second call gets nothing, so a command reads its machine once."""
    if sys.stdin.isatty():
        raise RequestError(
            "`--machine -` reads a machine from standard input, but standard input is a terminal",
            hint="to read a machine from a file",
            command="envforge explain --machine - < nvidia-smi.txt",
            code="stdin-terminal",
        )
    return sys.stdin.buffer.read(_MOST_BYTES + 1)


def _profile_machine(name: str, row: _Profile) -> Machine:
    source = f"profile {name}"
    facts = {"platform": source, "python": source, "glibc": source}
    driver: Driver | None = None
    gpus: tuple[Gpu, ...] = ()
    if row.driver is not None:
        driver = Driver(kernel_version=row.driver, user_version=row.driver, cuda=branch_cuda(row.driver))
        gpus = (
            Gpu(
                index=0,
                name=row.name,
                compute_capability=row.compute_capability,
                memory_bytes=row.memory_mib * 1024 * 1024,
            ),
        )
        facts |= {
            "driver.cuda": "table of driver branches",
            "driver.kernel_version": f"{source}: {row.driver_source}",
            "driver.user_version": source,
            "gpus": source,
        }
    return Machine(
        platform=row.platform,
        python=PYTHON,
        glibc=GLIBC,
        driver=driver,
        gpus=gpus,
        sources=tuple(sorted(facts.items())),
    )


def redact(machine: Machine) -> Machine:
    """Return the machine without what identifies it; every fact that a build depends on is kept."""
    from envforge.base.redact import Identity, redact_texts, redactor  # noqa: PLC0415 - `detect` shows its own machine

    cleaned = redact_texts(machine, redactor(Identity.here(machine.hostname)))
    sources = tuple((fact, source) for fact, source in cleaned.sources if fact != "hostname")
    return msgspec.structs.replace(cleaned, hostname=None, sources=sources)
