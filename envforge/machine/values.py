"""Describe a computer as frozen values, and apply the environment variables that override or restrict them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.errors import ESCAPE_SEQUENCE, Hint, RequestError

# numbers are limited, because Python rejects those of thousands of digits
_NUMBERS = re.compile(r"\d{1,9}(?:\.\d{1,9})+", re.ASCII)
_KERNEL_MODULE = re.compile(r"Kernel Module(?:\s+for\s+\S+)?\s+(\d{3}\.\d{1,9}(?:\.\d{1,9})*)")
_LIBRARY = re.compile(r"lib(?:nvidia-ml|cuda)\.so\.(\d{3}\.\d{1,9}(?:\.\d{1,9})*)$")
_NVML = re.compile(r"(?:\d{1,2}\.)?(\d{3}\.\d{1,9}(?:\.\d{1,9})*)")
# control characters, and the marks that change the direction of text
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class MigDevice(Struct, frozen=True, kw_only=True):
    """One instance of a GPU that is partitioned with MIG; programs select it by its UUID."""

    name: str | None = None
    uuid: str | None = None
    memory_bytes: int | None = None


class Gpu(Struct, frozen=True, kw_only=True):
    """One GPU as the driver numbers it, before ``CUDA_VISIBLE_DEVICES`` applies."""

    index: int
    name: str
    compute_capability: ComputeCapability | None = None
    uuid: str | None = None
    memory_bytes: int | None = None
    mig_enabled: bool | None = None
    pci_bus_id: str | None = None
    mig_devices: tuple[MigDevice, ...] = ()


class Driver(Struct, frozen=True, kw_only=True):
    """The NVIDIA driver: its kernel module, its user-space libraries, and the newest CUDA that it supports."""

    kernel_version: Version | None = None
    user_version: Version | None = None
    cuda: Version | None = None

    @property
    def version(self) -> Version | None:
        """The driver version that CUDA programs see: user space, or the kernel module if that is unknown."""
        return self.user_version or self.kernel_version


def driver_text(version: Version) -> str:
    """Return a driver version as NVIDIA writes it: ``535.216.01``, which ``str`` would shorten to ``535.216.1``.

    NVIDIA pads the last number to two digits, except on Jetson (``540.4.0``).
    """
    first, *rest = version.release
    if len(rest) == 2 and rest[0] < 10:
        return f"{first}.{rest[0]}.{rest[1]}"
    return ".".join([str(first), *(f"{part:02d}" for part in rest)])


class TextFormatError(ValueError):
    """Output of a tool in an unknown format."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found `{found}`")
        self.expected, self.found = expected, found


def clean(text: str) -> str:
    """Remove escape sequences and control characters, because terminals and logs contain names from the machine."""
    return _CONTROL.sub("", ESCAPE_SEQUENCE.sub("", text)).strip()


def parse_version(text: str | None) -> Version | None:
    """Return the version that starts a value such as ``610.57.04 [Deprecated; ...]``; None for ``N/A`` or ``ERR!``."""
    match = _NUMBERS.match(text.strip()) if text else None
    return Version(match[0]) if match else None


def parse_proc_version(text: str) -> Version:
    """Return the version in ``/proc/driver/nvidia/version`` (proprietary or open module); raise ``TextFormatError``."""
    match = _KERNEL_MODULE.search(text)
    if match is None:
        raise TextFormatError("`Kernel Module  535.216.01`", clean(text)[:80])
    return Version(match[1])


def parse_library_file(path: str) -> Version | None:
    """Return the driver version in the name of a library file such as ``libcuda.so.535.216.01``."""
    match = _LIBRARY.search(path)
    return Version(match[1]) if match else None


def parse_nvml_version(text: str) -> Version | None:
    """Return the driver version in an NVML version such as ``12.535.216.01``, without the CUDA major version."""
    match = _NVML.fullmatch(text.strip())
    return Version(match[1]) if match else None


class Override(Struct, frozen=True, kw_only=True):
    """A fact that the user sets with an environment variable, for example ``CONDA_OVERRIDE_CUDA``."""

    variable: str
    value: str


class Condition(Struct, frozen=True, kw_only=True):
    """A state of the machine that keeps programs from the GPU, with its cause and remedy."""

    code: str
    symptom: str
    cause: str
    remedy: str


PYTHON = Version("3.12")
"""The Python of a machine whose description has none; an environment has its own."""

UNREADABLE_SMI = "nvidia-smi-unreadable"
"""The code of the condition that ``nvidia-smi`` printed something that isn't known: there may be a GPU."""

OTHER_GPU = "other-gpu"
"""The code of the condition that the machine has only GPUs of AMD or Intel, for which envforge selects no builds."""


class Machine(Struct, frozen=True, kw_only=True):
    """One computer; ``sources`` maps the name of a fact to the place where it was read."""

    platform: str
    python: Version
    glibc: Version | None = None
    driver: Driver | None = None
    gpus: tuple[Gpu, ...] = ()
    visible: tuple[int, ...] | None = None
    capability_override: ComputeCapability | None = None
    container: str | None = None
    is_wsl: bool = False
    hostname: str | None = None
    overrides: tuple[Override, ...] = ()
    conditions: tuple[Condition, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that CUDA programs see, in the order in which they see them."""
        if self.visible is None:
            return self.gpus
        by_index = {gpu.index: gpu for gpu in self.gpus}
        return tuple(by_index[index] for index in self.visible if index in by_index)

    @property
    def capabilities(self) -> tuple[ComputeCapability, ...]:
        """The distinct compute capabilities that a build must support, lowest first."""
        if self.capability_override is not None:
            return (self.capability_override,)
        return tuple(sorted({gpu.compute_capability for gpu in self.visible_gpus if gpu.compute_capability}))

    @property
    def has_nvidia(self) -> bool:
        """True if there is any sign of an NVIDIA driver or GPU, set by the user or detected."""
        is_unknown = any(condition.code == UNREADABLE_SMI for condition in self.conditions)
        return self.driver is not None or bool(self.gpus) or self.capability_override is not None or is_unknown

    @property
    def cuda_is_stated(self) -> bool:
        """True if the user set ``driver.cuda`` (``CONDA_OVERRIDE_CUDA``), which precedes driver versions."""
        return any(override.variable == "CONDA_OVERRIDE_CUDA" for override in self.overrides)

    def source(self, fact: str) -> str | None:
        """Return where a fact was read, for example ``driver.cuda``; None if it is unknown."""
        return dict(self.sources).get(fact)


CUDA = "CONDA_OVERRIDE_CUDA"
CUDA_ARCH = "CONDA_OVERRIDE_CUDA_ARCH"
GLIBC_VARIABLE = "CONDA_OVERRIDE_GLIBC"
VARIABLES = (CUDA, CUDA_ARCH, GLIBC_VARIABLE)


def apply_overrides(machine: Machine, environment: Mapping[str, str]) -> Machine:
    """Return the machine with the facts that the variables set; raise RequestError for an invalid version."""
    given = tuple(Override(variable=name, value=environment[name]) for name in VARIABLES if name in environment)
    changed = msgspec.structs.replace(machine, overrides=given)
    for override in given:
        changed = _APPLY[override.variable](changed, override.value.strip())
    return changed


def _cuda(machine: Machine, value: str) -> Machine:
    """Treat an empty value as a machine without CUDA, as conda does."""
    if value:
        driver = msgspec.structs.replace(machine.driver or Driver(), cuda=_version(CUDA, value, "12.4"))
        return _read(msgspec.structs.replace(machine, driver=driver), "driver.cuda", CUDA)
    if machine.driver is None and not machine.gpus:
        return machine
    switched_off = Condition(
        code="cuda-switched-off",
        symptom=f"the driver and {_count(len(machine.gpus))} of this machine are ignored",
        cause=f"{CUDA} is set to an empty value, which means a machine without CUDA, as in conda",
        remedy=f"to use the GPU, run `unset {CUDA}`",
    )
    sources = tuple(
        (fact, source) for fact, source in machine.sources if not fact.startswith(("driver", "gpus", "visible"))
    )
    return msgspec.structs.replace(
        machine, driver=None, gpus=(), visible=None, conditions=(*machine.conditions, switched_off), sources=sources
    )


def _count(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


def _cuda_arch(machine: Machine, value: str) -> Machine:
    """Ignore an empty value."""
    if not value:
        return machine
    try:
        capability = ComputeCapability.parse(value)
    except ValueError as error:
        raise _bad(CUDA_ARCH, value, "a compute capability such as `8.6`", "8.6") from error
    return _read(msgspec.structs.replace(machine, capability_override=capability), "capability_override", CUDA_ARCH)


def _glibc(machine: Machine, value: str) -> Machine:
    """Treat an empty value as a machine without glibc, as conda does."""
    glibc = _version(GLIBC_VARIABLE, value, "2.28") if value else None
    return _read(msgspec.structs.replace(machine, glibc=glibc), "glibc", GLIBC_VARIABLE)


_APPLY = {CUDA: _cuda, CUDA_ARCH: _cuda_arch, GLIBC_VARIABLE: _glibc}


def _read(machine: Machine, fact: str, source: str) -> Machine:
    return msgspec.structs.replace(machine, sources=tuple(sorted({**dict(machine.sources), fact: source}.items())))


def _version(variable: str, value: str, example: str) -> Version:
    try:
        return Version(value)
    except ValueError as error:
        raise _bad(variable, value, f"a version such as `{example}`", example) from error


def _bad(variable: str, value: str, wanted: str, example: str) -> RequestError:
    return RequestError(
        f"invalid value `{value}` for the environment variable `{variable}`: expected {wanted}",
        hint=(
            Hint("to set a valid value", f"export {variable}={example}"),
            Hint("to use what was detected", f"unset {variable}"),
        ),
        code="bad-override",
    )


_ORDINAL = re.compile(r"[+-]?\d+")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)(?:/\d+)*")


class Visible(Struct, frozen=True, kw_only=True):
    """The visible GPUs in their order; ``None`` if unknown facts are needed to resolve the value."""

    indices: tuple[int, ...] | None
    problem: str = ""


def resolve_visible(text: str | None, gpus: Sequence[Gpu]) -> Visible:
    """Resolve the value for the machine's GPUs; ``text`` is ``None`` if the variable isn't set.

    Source of the rules: torch 2.13, ``torch/cuda/__init__.py`` (``_parse_visible_devices``,
    ``_transform_uuid_to_ordinals``, ``_device_count_nvml``). An ordinal is the number at the start of an entry. A
    repeated entry hides every GPU. The first negative, invalid, or missing entry ends the list. If the value starts
    with ``GPU-`` or ``MIG-``, the entries are prefixes of UUIDs.
    """
    if text is None:
        return Visible(indices=None)
    if text.startswith("GPU-"):
        return _by_uuid(_with_prefix(text, "GPU-"), gpus)
    if text.startswith("MIG-"):
        return _by_mig(_with_prefix(text, "MIG-"), gpus)
    return _by_ordinal(text, len(gpus))


def _by_ordinal(text: str, count: int) -> Visible:
    chosen: list[int] = []
    problem = ""
    for entry in text.split(","):
        match = _ORDINAL.match(entry.strip())
        if match is None and entry.strip().startswith(("+", "-")):
            return Visible(indices=(), problem=f"`{entry.strip()}` is a sign without a number, where torch stops")
        ordinal = int(match[0]) if match else -1
        if ordinal in chosen:
            return Visible(indices=(), problem=f"`{ordinal}` is repeated, which hides every GPU")
        if ordinal < 0:
            if text.strip() not in {"", "-1"}:
                problem = f"`{entry.strip()}` isn't the number of a GPU, and ends the list"
            break
        chosen.append(ordinal)
    # no GPU is known, so only an empty list has a known result
    if count == 0:
        return Visible(indices=tuple(chosen) if not chosen else None, problem=problem)
    for position, ordinal in enumerate(chosen):
        if ordinal >= count:
            missing = f"GPU `{ordinal}` doesn't exist (this machine has {_numbers(count)}), and ends the list"
            return Visible(indices=tuple(chosen[:position]), problem=missing)
    return Visible(indices=tuple(chosen), problem=problem)


def _numbers(count: int) -> str:
    return "only `0`" if count == 1 else f"`0` to `{count - 1}`"


def _with_prefix(text: str, prefix: str) -> tuple[list[str], str]:
    """Return the entries of one kind, and a problem: the first entry of another kind, or a repeated one."""
    entries: list[str] = []
    for entry in text.split(","):
        if entry in entries:
            return [], f"`{entry}` is repeated, which hides every GPU"
        if not entry.startswith(prefix):
            return entries, f"`{entry}` doesn't begin with `{prefix}`, and ends the list"
        entries.append(entry)
    return entries, ""


def _by_uuid(parsed: tuple[list[str], str], gpus: Sequence[Gpu]) -> Visible:
    entries, problem = parsed
    if entries and any(gpu.uuid is None for gpu in gpus):
        return Visible(indices=None, problem="the UUIDs of the GPUs are unknown, so it can't be checked")
    chosen: list[int] = []
    for entry in entries:
        matching = [gpu.index for gpu in gpus if gpu.uuid is not None and gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            many = "no GPU has that UUID" if not matching else f"{len(matching)} GPUs have a UUID with this beginning"
            problem = f"`{entry}`: {many}, which ends the list"
            break
        if matching[0] in chosen:
            return Visible(indices=(), problem=f"`{entry}` is a GPU that an earlier entry has, which hides every GPU")
        chosen.append(matching[0])
    return Visible(indices=tuple(chosen), problem=problem)


def _by_mig(parsed: tuple[list[str], str], gpus: Sequence[Gpu]) -> Visible:
    """Use only the first MIG device, as CUDA does (NVIDIA, MIG User Guide, "CUDA visible devices")."""
    entries, problem = parsed
    if not entries:
        return Visible(indices=(), problem=problem)
    old = _OLD_MIG.fullmatch(entries[0])
    if old is not None:
        return _by_uuid(([old[1]], problem), gpus)
    if not any(device.uuid for gpu in gpus for device in gpu.mig_devices):
        return Visible(indices=None, problem="the UUIDs of the MIG devices are unknown, so it can't be checked")
    parents = [g.index for g in gpus if any(d.uuid and d.uuid.startswith(entries[0]) for d in g.mig_devices)]
    if len(parents) != 1:
        return Visible(indices=(), problem=f"`{entries[0]}`: no GPU, or more than one, has that MIG device")
    if len(entries) > 1:
        problem = f"CUDA uses one MIG device, `{entries[0]}`, and ignores the other {len(entries) - 1}"
    return Visible(indices=(parents[0],), problem=problem)
