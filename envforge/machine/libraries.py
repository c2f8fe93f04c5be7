"""Parse the output of ``driver_child``, the child process that queries NVML and libcuda."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.nvidia_text import clean, parse_library_file, parse_nvml_version, parse_version
from envforge.machine.values import Gpu, MigDevice
from envforge.machine.world import ProgramResult

MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
NOT_LOADED = 9  # NVML_ERROR_DRIVER_NOT_LOADED
NOT_FOUND = 12  # NVML_ERROR_LIBRARY_NOT_FOUND
UNKNOWN = 999  # NVML_ERROR_UNKNOWN
HUNG = -1
CRASHED = -2


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryError:
    """Why a library didn't respond: its own error code, or ``HUNG`` or ``CRASHED``."""

    code: int | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NvmlReport:
    """The response of NVML; ``pci_ids`` has the PCI device ID of each GPU, ``failures`` the calls that failed."""

    error: LibraryError | None = None
    file: str | None = None
    driver_version: Version | None = None
    library_version: Version | None = None
    cuda: Version | None = None
    gpus: tuple[Gpu, ...] = ()
    pci_ids: tuple[str | None, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LibcudaReport:
    """The response of the CUDA driver library, and its file."""

    error: LibraryError | None = None
    file: str | None = None
    cuda: Version | None = None

    @property
    def is_compat(self) -> bool:
        """True if it is from a ``cuda-compat`` package (NVIDIA, CUDA Compatibility, "Forward Compatibility")."""
        return re.search(r"/(?:cuda-)?compat/", self.file or "") is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryReport:
    """The responses of both libraries."""

    nvml: NvmlReport
    libcuda: LibcudaReport


def read_report(result: ProgramResult) -> LibraryReport:
    """Parse the child's lines; a library without a line is the one that crashed or blocked the child."""
    answers: dict[str, dict[str, Any]] = {}
    for line in result.stdout.splitlines():
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:  # a library that writes to stdout, or a line that a crash truncated
            continue
        if isinstance(answer, dict) and "library" in answer:
            answers[answer["library"]] = answer
    silent = _silence(result)
    return LibraryReport(
        nvml=_nvml(answers["nvml"]) if "nvml" in answers else NvmlReport(error=silent),
        libcuda=_libcuda(answers["libcuda"]) if "libcuda" in answers else LibcudaReport(error=silent),
    )


def _silence(result: ProgramResult) -> LibraryError:
    if result.exit_code is None:
        return LibraryError(code=HUNG, text="no response in time")
    ended = f"signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
    last = clean(result.stderr.strip().rpartition("\n")[2])[:200]
    return LibraryError(
        code=CRASHED, text=f"it ended the process that queried it ({ended})" + (f": {last}" if last else "")
    )


def _error(answer: dict[str, Any]) -> LibraryError | None:
    error = answer.get("error")
    return LibraryError(code=error["code"], text=clean(error["text"])) if error else None


def _nvml(answer: dict[str, Any]) -> NvmlReport:
    file = answer.get("file")
    return NvmlReport(
        error=_error(answer),
        file=file,
        driver_version=parse_version(answer.get("driver_version")),
        library_version=parse_library_file(file or "") or parse_nvml_version(answer.get("nvml_version") or ""),
        cuda=_cuda(answer.get("cuda")),
        gpus=tuple(_gpu(gpu) for gpu in answer.get("gpus", [])),
        pci_ids=tuple(gpu.get("pci_device_id") for gpu in answer.get("gpus", [])),
        failures=tuple(f"{f['function']}: {clean(f['text'])}" for f in answer.get("failures", [])),
    )


def _libcuda(answer: dict[str, Any]) -> LibcudaReport:
    return LibcudaReport(error=_error(answer), file=answer.get("file"), cuda=_cuda(answer.get("cuda")))


def _cuda(number: int | None) -> Version | None:
    """Convert a version from CUDA's number: 12020 is 12.2 (``CUDA_VERSION`` in cuda.h)."""
    return Version(f"{number // 1000}.{number % 1000 // 10}") if number else None


def _gpu(answer: dict[str, Any]) -> Gpu:
    capability = answer.get("compute_capability")
    mig = answer.get("mig")
    return Gpu(
        index=answer["index"],
        name=clean(answer.get("name") or "") or "unknown",
        compute_capability=ComputeCapability(*capability) if capability else None,
        uuid=answer.get("uuid") and clean(answer["uuid"]),
        memory_bytes=answer.get("memory_bytes"),
        mig_enabled=None if mig is None else mig[0] == 1,
        pci_bus_id=answer.get("pci_bus_id") and clean(answer["pci_bus_id"]),
        mig_devices=tuple(_mig(device) for device in answer.get("mig_devices", [])),
    )


def _mig(answer: dict[str, Any]) -> MigDevice:
    name, uuid = answer.get("name"), answer.get("uuid")
    return MigDevice(name=name and clean(name), uuid=uuid and clean(uuid), memory_bytes=answer.get("memory_bytes"))
