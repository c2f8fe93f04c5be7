"""Query the health signals of each GPU through NVML, one after the other, in the process of ``driver_child``.

Each signal is its value in JSON types, or NVML's error code and message. NVML must be initialized.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
_MOST_LINKS = 36  # NVML_NVLINK_MAX_LINKS of NVML 13


class _Fabric(ctypes.Structure):
    """``nvmlGpuFabricInfo_v2_t`` of nvml.h, defined here because nvidia-ml-py before 12.570 can't create one."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("cluster_uuid", ctypes.c_uint8 * 16),
        ("status", ctypes.c_uint),
        ("clique", ctypes.c_uint32),
        ("state", ctypes.c_uint8),
        ("health_mask", ctypes.c_uint32),
    )


_FABRIC_VERSION = ctypes.sizeof(_Fabric) | 2 << 24  # NVML_STRUCT_VERSION: the size, and version 2 in the top byte


def ask_health(gpus: int) -> Iterator[dict[str, Any]]:
    """Yield one result for each signal of each GPU."""
    import pynvml  # noqa: PLC0415 - the child has it; other importers may not

    for index in range(gpus):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            yield {"gpu": index, "key": "handle", "error": {"code": error.value, "text": str(error)}}
            continue
        yield {"gpu": index, "key": "handle", "value": True}
        for key, ask in SIGNALS.items():
            yield {"gpu": index, "key": key, **_answer(pynvml, ask, handle)}


def _answer(pynvml: Any, ask: Callable[[Any, Any], Any], handle: Any) -> dict[str, Any]:
    try:
        return {"value": ask(pynvml, handle)}
    except pynvml.NVMLError as error:
        return {"error": {"code": error.value, "text": str(error)}}
    except (AttributeError, pynvml.NVMLLibraryMismatchError) as error:  # nvidia-ml-py or the driver lacks the call
        return {"error": {"code": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "text": str(error)}}


def _either(new: Callable[[Any, Any], Any], old: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
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


def _ecc_errors(kind: str, counter: str) -> Callable[[Any, Any], Any]:
    def ask(pynvml: Any, handle: Any) -> Any:
        return pynvml.nvmlDeviceGetTotalEccErrors(handle, getattr(pynvml, kind), getattr(pynvml, counter))

    return ask


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
    info = _Fabric(version=_FABRIC_VERSION)
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


def _pair(first: str, second: str) -> Callable[[Any, Any], Any]:
    def ask(pynvml: Any, handle: Any) -> Any:
        return [getattr(pynvml, first)(handle), getattr(pynvml, second)(handle)]

    return ask


def _clocks(pynvml: Any, handle: Any) -> Any:
    sm = pynvml.NVML_CLOCK_SM
    return [pynvml.nvmlDeviceGetClockInfo(handle, sm), pynvml.nvmlDeviceGetMaxClockInfo(handle, sm)]


def _application_clocks(pynvml: Any, handle: Any) -> Any:
    clock = pynvml.NVML_CLOCK_GRAPHICS
    stated = pynvml.nvmlDeviceGetApplicationsClock(handle, clock)
    return [stated, pynvml.nvmlDeviceGetDefaultApplicationsClock(handle, clock)]


def _processes(function: str) -> Callable[[Any, Any], Any]:
    def ask(pynvml: Any, handle: Any) -> Any:
        found = getattr(pynvml, function)(handle)
        return [{"pid": process.pid, "memory_bytes": process.usedGpuMemory} for process in found]

    return ask


def _call(function: str, *arguments: str) -> Callable[[Any, Any], Any]:
    def ask(pynvml: Any, handle: Any) -> Any:
        return getattr(pynvml, function)(handle, *(getattr(pynvml, name) for name in arguments))

    return ask


SIGNALS: dict[str, Callable[[Any, Any], Any]] = {
    "memory": _memory,
    "recovery": _recovery,
    "ecc": _call("nvmlDeviceGetEccMode"),
    "ecc_uncorrected": _ecc_errors("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC"),
    "ecc_uncorrected_ever": _ecc_errors("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_AGGREGATE_ECC"),
    "rows": _call("nvmlDeviceGetRemappedRows"),
    "retired_pages": _retired_pages,
    "fabric": _fabric,
    "links": _links,
    "mig": _call("nvmlDeviceGetMigMode"),
    "compute_mode": _call("nvmlDeviceGetComputeMode"),
    "persistence": _call("nvmlDeviceGetPersistenceMode"),
    "event_reasons": _either(
        _call("nvmlDeviceGetCurrentClocksEventReasons"), _call("nvmlDeviceGetCurrentClocksThrottleReasons")
    ),
    "power_mw": _pair("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementDefaultLimit"),
    "clocks_mhz": _clocks,
    "application_clocks_mhz": _application_clocks,
    "pcie_width": _pair("nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkWidth"),
    "pcie_generation": _pair("nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetMaxPcieLinkGeneration"),
    "temperature_c": _call("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
    "processes": _either(
        _processes("nvmlDeviceGetComputeRunningProcesses_v3"), _processes("nvmlDeviceGetComputeRunningProcesses_v2")
    ),
}
"""Each signal with the calls that give it."""

SOURCES: dict[str, str] = {
    "handle": "NVML nvmlDeviceGetHandleByIndex",
    "memory": "NVML nvmlDeviceGetMemoryInfo",
    "recovery": f"NVML nvmlDeviceGetFieldValues({RECOVERY_ACTION})",
    "ecc": "NVML nvmlDeviceGetEccMode",
    "ecc_uncorrected": "NVML nvmlDeviceGetTotalEccErrors(uncorrected, volatile)",
    "ecc_uncorrected_ever": "NVML nvmlDeviceGetTotalEccErrors(uncorrected, aggregate)",
    "rows": "NVML nvmlDeviceGetRemappedRows",
    "retired_pages": "NVML nvmlDeviceGetRetiredPages",
    "fabric": "NVML nvmlDeviceGetGpuFabricInfoV",
    "links": "NVML nvmlDeviceGetNvLinkState",
    "mig": "NVML nvmlDeviceGetMigMode",
    "compute_mode": "NVML nvmlDeviceGetComputeMode",
    "persistence": "NVML nvmlDeviceGetPersistenceMode",
    "event_reasons": "NVML nvmlDeviceGetCurrentClocksEventReasons",
    "power_mw": "NVML nvmlDeviceGetEnforcedPowerLimit",
    "clocks_mhz": "NVML nvmlDeviceGetClockInfo(SM)",
    "application_clocks_mhz": "NVML nvmlDeviceGetApplicationsClock",
    "pcie_width": "NVML nvmlDeviceGetCurrPcieLinkWidth",
    "pcie_generation": "NVML nvmlDeviceGetCurrPcieLinkGeneration",
    "temperature_c": "NVML nvmlDeviceGetTemperature",
    "processes": "NVML nvmlDeviceGetComputeRunningProcesses",
}
"""Where each signal is read, in the words of a finding."""
