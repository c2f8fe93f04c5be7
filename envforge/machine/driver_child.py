"""Query NVML and libcuda in a child process, and print each result as one line of JSON.

Initializing these libraries can hang, abort the process, or print to stdout (docs/decisions/0010). Each line is flushed
at once, so a crash loses only the lines after it. Their order is ``{"library": "nvml", ...}``, with ``health=True`` one
``{"library": "health", "gpu": 0, "key": ..., ...}`` for each signal of each GPU, and ``{"library": "libcuda", ...}``.
``World.here`` starts the process.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(*, health: bool = False) -> None:
    """Print the lines, libcuda last. A signal that hangs or crashes loses only the lines after it."""
    nvml = ask_nvml()
    _say("nvml", nvml)
    if health and "error" not in nvml:
        from envforge.machine.driver_health import ask_health  # noqa: PLC0415 - `detect` does not need it

        for answer in ask_health(len(nvml["gpus"])):
            _say("health", answer)
    _say("libcuda", ask_libcuda())


def _say(library: str, answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"library": library, **answer}) + "\n")
    sys.stdout.flush()


def ask_nvml() -> dict[str, Any]:
    """Return the driver and every GPU as nvidia-ml-py reports them."""
    try:
        import pynvml  # noqa: PLC0415 - slow to import, and a missing package is a result
    except ImportError as error:
        return {"error": {"code": None, "text": f"the Python package nvidia-ml-py is missing: {error}"}}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"error": {"code": error.value, "text": str(error)}, "file": _loaded_file("libnvidia-ml.so")}
    calls = _Calls(pynvml)
    answer = {
        "file": _loaded_file("libnvidia-ml.so"),
        "driver_version": calls.ask("nvmlSystemGetDriverVersion"),
        "nvml_version": calls.ask("nvmlSystemGetNVMLVersion"),
        "cuda": calls.ask("nvmlSystemGetCudaDriverVersion_v2"),
        "gpus": [_gpu(calls, index) for index in range(calls.ask("nvmlDeviceGetCount") or 0)],
    }
    return {**answer, "failures": calls.failures}


class _Calls:
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


def _gpu(calls: _Calls, index: int) -> dict[str, Any]:
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


def _mig_devices(calls: _Calls, handle: Any) -> list[dict[str, Any]]:
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
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in maps.splitlines():
        path = line.partition("/")[2]
        if path.rpartition("/")[2].startswith(name):
            return f"/{path}"
    return None
