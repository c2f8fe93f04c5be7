"""Query NVML and libcuda in a child process, and print each result as one line of JSON.

Initializing these libraries can hang, abort the process, or print to stdout (docs/decisions/0010). Each line is flushed
at once, so a crash loses only the lines after it. Their order is ``{"library": "nvml", ...}``, with ``health=True`` one
``{"library": "health", "gpu": 0, "key": ..., ...}`` for each signal of each GPU, and ``{"library": "libcuda", ...}``.
``World.here`` starts the process. It imports little, because every command that detects the machine waits for it.
"""

from __future__ import annotations

import ctypes
import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    _Ask: TypeAlias = Callable[[Any, Any], Any]  # (pynvml, the handle of a GPU) -> the value in JSON types


def main(*, health: bool = False) -> None:
    """Print the lines, libcuda last. A signal that hangs or crashes loses only the lines after it."""
    nvml = ask_nvml()
    _say("nvml", nvml)
    if health and "error" not in nvml:
        for answer in ask_health(len(nvml["gpus"])):
            _say("health", answer)
    _say("libcuda", ask_libcuda())


def _say(library: str, answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"library": library, **answer}) + "\n")
    # at once, because the parent reads what a crash has left
    sys.stdout.flush()


def ask_nvml() -> dict[str, Any]:
    """Return the driver and every GPU as nvidia-ml-py reports them."""
    if sys.platform == "linux" and not _loads("libnvidia-ml.so.1"):  # where nvidia-ml-py, slow to import, looks too
        return {"error": {"code": 12, "text": "NVML Shared Library Not Found"}, "file": None}
    try:
        import pynvml  # noqa: PLC0415 - slow to import, and a missing package is a result
    except ImportError as error:
        return {"error": {"code": None, "text": f"the Python package nvidia-ml-py is missing: {error}"}}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"error": {"code": error.value, "text": str(error)}, "file": _loaded_file("libnvidia-ml.so")}
    calls = _NvmlCalls(pynvml)
    answer = {
        "file": _loaded_file("libnvidia-ml.so"),
        "driver_version": calls.ask("nvmlSystemGetDriverVersion"),
        "nvml_version": calls.ask("nvmlSystemGetNVMLVersion"),
        "cuda": calls.ask("nvmlSystemGetCudaDriverVersion_v2"),
        "gpus": [_gpu(calls, index) for index in range(calls.ask("nvmlDeviceGetCount") or 0)],
    }
    return {**answer, "failures": calls.failures}


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


class _NvmlCalls:
    """NVML calls that can fail one by one: each returns a value or None, and records its failure."""

    def __init__(self, pynvml: Any) -> None:
        self.pynvml = pynvml
        self.failures: list[dict[str, Any]] = []

    def ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self.pynvml, function)(*arguments)
        except self.pynvml.NVMLError as error:
            # older drivers and consumer GPUs return these codes for a value that they lack
            if error.value not in (self.pynvml.NVML_ERROR_NOT_SUPPORTED, self.pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                self.failures.append({"function": function, "code": error.value, "text": str(error)})
            return None


def _gpu(calls: _NvmlCalls, index: int) -> dict[str, Any]:
    handle = calls.ask("nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        return {"index": index}
    memory = calls.ask("nvmlDeviceGetMemoryInfo", handle)
    pci = calls.ask("nvmlDeviceGetPciInfo", handle)
    mig = calls.ask("nvmlDeviceGetMigMode", handle)
    return {
        "index": index,
        "name": calls.ask("nvmlDeviceGetName", handle),
        "uuid": calls.ask("nvmlDeviceGetUUID", handle),
        "compute_capability": calls.ask("nvmlDeviceGetCudaComputeCapability", handle),
        "memory_bytes": memory.total if memory is not None else None,
        "pci_bus_id": _text(pci.busId) if pci is not None else None,
        # the low 16 bits are the vendor
        "pci_device_id": f"{pci.pciDeviceId >> 16:04x}" if pci is not None else None,
        "mig": mig,
        "mig_devices": _mig_devices(calls, handle) if mig is not None and mig[0] == 1 else [],
    }


def _mig_devices(calls: _NvmlCalls, handle: Any) -> list[dict[str, Any]]:
    found = []
    for index in range(calls.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        try:
            device = calls.pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except calls.pynvml.NVMLError:  # a slot without a MIG instance
            continue
        memory = calls.ask("nvmlDeviceGetMemoryInfo", device)
        found.append(
            {
                "name": calls.ask("nvmlDeviceGetName", device),
                "uuid": calls.ask("nvmlDeviceGetUUID", device),
                "memory_bytes": memory.total if memory is not None else None,
            }
        )
    return found


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def ask_libcuda() -> dict[str, Any]:
    """Return the newest CUDA version that libcuda supports; ``cuDriverGetVersion`` needs no GPU."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return {"error": {"code": None, "text": str(error)}}
    version = ctypes.c_int()
    function: Callable[..., int] = library.cuDriverGetVersion
    code = function(ctypes.byref(version))
    file = _loaded_file("libcuda.so")
    if code != 0:
        return {"error": {"code": code, "text": f"cuDriverGetVersion returned {code}"}, "file": file}
    return {"file": file, "cuda": version.value}


def _loaded_file(name: str) -> str | None:
    """Return the real path of a library that this process has loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 - pathlib is slow to import
            lines = stream.read().splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.partition("/")[2]
        if path.rpartition("/")[2].startswith(name):
            return f"/{path}"
    return None


RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
_MOST_LINKS = 36  # NVML_NVLINK_MAX_LINKS of NVML 13


class _FabricStruct(ctypes.Structure):
    """``nvmlGpuFabricInfo_v2_t`` of nvml.h, defined here because nvidia-ml-py before 12.570 can't create one."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("cluster_uuid", ctypes.c_uint8 * 16),
        ("status", ctypes.c_uint),
        ("clique", ctypes.c_uint32),
        ("state", ctypes.c_uint8),
        ("health_mask", ctypes.c_uint32),
    )


_FABRIC_VERSION = ctypes.sizeof(_FabricStruct) | 2 << 24  # NVML_STRUCT_VERSION: the size, and version 2 in the top byte


def ask_health(gpus: int) -> Iterator[dict[str, Any]]:
    """Yield one result for each signal of each GPU: its value in JSON types, or NVML's error code and message."""
    import pynvml  # noqa: PLC0415 - the child has it; other importers may not

    for index in range(gpus):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            yield {"gpu": index, "key": "handle", "error": {"code": error.value, "text": str(error)}}
            continue
        yield {"gpu": index, "key": "handle", "value": True}
        for key, (_, ask) in SIGNALS.items():
            yield {"gpu": index, "key": key, **_answer(pynvml, ask, handle)}


def _answer(pynvml: Any, ask: _Ask, handle: Any) -> dict[str, Any]:
    try:
        return {"value": ask(pynvml, handle)}
    except pynvml.NVMLError as error:
        return {"error": {"code": error.value, "text": str(error)}}
    except (AttributeError, pynvml.NVMLLibraryMismatchError) as error:  # nvidia-ml-py or the driver lacks the call
        return {"error": {"code": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "text": str(error)}}


def _either(new: _Ask, old: _Ask) -> _Ask:
    """Return a call of the newer function, or of the older one if this driver or nvidia-ml-py lacks the newer."""

    def ask(pynvml: Any, handle: Any) -> Any:
        try:
            return new(pynvml, handle)
        except (AttributeError, pynvml.NVMLLibraryMismatchError):
            return old(pynvml, handle)
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            return old(pynvml, handle)

    return ask


def _memory(pynvml: Any, handle: Any) -> Any:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {"total": memory.total, "free": memory.free, "used": memory.used}


def _retired_pages(pynvml: Any, handle: Any) -> Any:
    cause = pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR
    return {
        "double_bit": len(pynvml.nvmlDeviceGetRetiredPages(handle, cause)),
        "pending": bool(pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)),
    }


def _recovery(pynvml: Any, handle: Any) -> Any:
    """Return the recovery action; NVML reports the error of each field in the field itself."""
    (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [RECOVERY_ACTION])
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return field.value.uiVal


def _fabric(pynvml: Any, handle: Any) -> Any:
    info = _FabricStruct(version=_FABRIC_VERSION)
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    return {"state": info.state, "status": info.status, "health_mask": info.health_mask}


def _links(pynvml: Any, handle: Any) -> Any:
    states: list[bool] = []
    for link in range(_MOST_LINKS):
        try:
            states.append(bool(pynvml.nvmlDeviceGetNvLinkState(handle, link)))
        except pynvml.NVMLError as error:  # noqa: PERF203 - NVML reports the number of links only by an error
            beyond = error.value in (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED)
            if beyond and states:
                break
            raise
    return states


def _processes(function: str) -> _Ask:
    def ask(pynvml: Any, handle: Any) -> Any:
        found = getattr(pynvml, function)(handle)
        return [{"pid": process.pid, "memory_bytes": process.usedGpuMemory} for process in found]

    return ask


def call(function: str, *arguments: str) -> _Ask:
    """Return a call of a function of NVML with a handle, and with constants by their names."""
    return lambda pynvml, handle: getattr(pynvml, function)(handle, *(getattr(pynvml, name) for name in arguments))


def _pair(first: str, second: str, *arguments: str) -> _Ask:
    return lambda pynvml, handle: [call(function, *arguments)(pynvml, handle) for function in (first, second)]


SIGNALS: dict[str, tuple[str, _Ask]] = {
    "memory": ("nvmlDeviceGetMemoryInfo", _memory),
    "recovery": (f"nvmlDeviceGetFieldValues({RECOVERY_ACTION})", _recovery),
    "ecc": ("nvmlDeviceGetEccMode", call("nvmlDeviceGetEccMode")),
    "ecc_uncorrected": (
        "nvmlDeviceGetTotalEccErrors(uncorrected, volatile)",
        call("nvmlDeviceGetTotalEccErrors", "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC"),
    ),
    "ecc_uncorrected_ever": (
        "nvmlDeviceGetTotalEccErrors(uncorrected, aggregate)",
        call("nvmlDeviceGetTotalEccErrors", "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_AGGREGATE_ECC"),
    ),
    "rows": ("nvmlDeviceGetRemappedRows", call("nvmlDeviceGetRemappedRows")),
    "retired_pages": ("nvmlDeviceGetRetiredPages", _retired_pages),
    "fabric": ("nvmlDeviceGetGpuFabricInfoV", _fabric),
    "links": ("nvmlDeviceGetNvLinkState", _links),
    "mig": ("nvmlDeviceGetMigMode", call("nvmlDeviceGetMigMode")),
    "compute_mode": ("nvmlDeviceGetComputeMode", call("nvmlDeviceGetComputeMode")),
    "persistence": ("nvmlDeviceGetPersistenceMode", call("nvmlDeviceGetPersistenceMode")),
    "event_reasons": (
        "nvmlDeviceGetCurrentClocksEventReasons",
        _either(call("nvmlDeviceGetCurrentClocksEventReasons"), call("nvmlDeviceGetCurrentClocksThrottleReasons")),
    ),
    "power_mw": (
        "nvmlDeviceGetEnforcedPowerLimit",
        _pair("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementDefaultLimit"),
    ),
    "application_clocks_mhz": (
        "nvmlDeviceGetApplicationsClock",
        _pair("nvmlDeviceGetApplicationsClock", "nvmlDeviceGetDefaultApplicationsClock", "NVML_CLOCK_GRAPHICS"),
    ),
    "pcie_width": (
        "nvmlDeviceGetCurrPcieLinkWidth",
        _pair("nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkWidth"),
    ),
    "pcie_generation": (
        "nvmlDeviceGetCurrPcieLinkGeneration",
        _pair("nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetMaxPcieLinkGeneration"),
    ),
    "temperature_c": ("nvmlDeviceGetTemperature", call("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU")),
    "processes": (
        "nvmlDeviceGetComputeRunningProcesses",
        _either(
            _processes("nvmlDeviceGetComputeRunningProcesses_v3"), _processes("nvmlDeviceGetComputeRunningProcesses_v2")
        ),
    ),
}
"""Each signal with the NVML call that returns it, as findings name it, and the function that calls it."""

SOURCES = {"handle": "NVML nvmlDeviceGetHandleByIndex", **{key: f"NVML {call}" for key, (call, _) in SIGNALS.items()}}
