"""Clocks, throttle reasons, power and the PCIe link of each GPU while it works, from NVML (effects).

NVML is asked in a process of its own, several times a second, because a driver that hangs must not stop us. The same
file runs in that process: ``main`` prints one marked line a sample until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envforge.probe import World

INTERVAL_S = 0.2
_START = "import sys; sys.path[:] = sys.argv[1:]; from envforge.verify.training.sampler import main; main()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One reading of one GPU; ``values`` are integers under the names that ``_read`` gives them."""

    at: float
    uuid: str
    values: dict[str, int]


@dataclass(slots=True)
class Samples:
    """What the sampler has said; empty where none ran, and while it runs."""

    said: tuple[Sample, ...] = ()


def sampler_command() -> list[str]:
    """The command of the sampling process: this interpreter with its module path, and nothing of the current folder."""
    return [sys.executable, "-I", "-S", "-c", _START, *sys.path, str(Path(__file__).resolve().parents[3])]


@contextlib.contextmanager
def sampling(world: World) -> Iterator[Samples]:
    """Sample while the block runs; after it the samples are there."""
    from envforge.verify.environment.process import marked_lines  # noqa: PLC0415 - not in the sampling process

    samples = Samples()
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            sampler_command(),
            env=dict(world.environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield samples
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs inside the driver, and is left behind
                process.wait(timeout=2.0)
            file.seek(0)
            lines = marked_lines(file.read().decode("utf-8", "replace"))
            samples.said = tuple(
                Sample(at=float(line["at"]), uuid=str(line["uuid"]), values=dict(line["values"])) for line in lines
            )


def main() -> None:
    """Sample every GPU until somebody kills us, or nobody is left who could."""
    import pynvml  # noqa: PLC0415 - slow to import, and only this process needs it

    parent = os.getppid()
    pynvml.nvmlInit()
    gpus = dict(_gpus(pynvml))
    while os.getppid() == parent:
        for uuid, handle in gpus.items():
            line = {"at": time.time(), "uuid": uuid, "values": _read(pynvml, handle)}
            sys.stdout.write("@envforge " + json.dumps(line) + "\n")
            sys.stdout.flush()  # the next GPU may hang
        time.sleep(INTERVAL_S)


def _gpus(pynvml: Any) -> Iterator[tuple[str, Any]]:
    """The UUID and handle of each GPU that answers."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError):  # a lost GPU must not hide the others
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            yield _uuid(pynvml, handle), handle


def _uuid(pynvml: Any, handle: Any) -> str:
    value = pynvml.nvmlDeviceGetUUID(handle)
    return value.decode() if isinstance(value, bytes) else str(value)


def _read(pynvml: Any, handle: Any) -> dict[str, int]:
    """What NVML tells; a value that this GPU or driver does not have is left out."""
    sm = pynvml.NVML_CLOCK_SM
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "reasons": ("nvmlDeviceGetCurrentClocksEventReasons", (handle,)),
        "sm_clock_mhz": ("nvmlDeviceGetClockInfo", (handle, sm)),
        "max_sm_clock_mhz": ("nvmlDeviceGetMaxClockInfo", (handle, sm)),
        "power_mw": ("nvmlDeviceGetPowerUsage", (handle,)),
        "power_limit_mw": ("nvmlDeviceGetEnforcedPowerLimit", (handle,)),
        "temperature_c": ("nvmlDeviceGetTemperature", (handle, pynvml.NVML_TEMPERATURE_GPU)),
        "pcie_generation": ("nvmlDeviceGetCurrPcieLinkGeneration", (handle,)),
        "pcie_width": ("nvmlDeviceGetCurrPcieLinkWidth", (handle,)),
        "pcie_max_generation": ("nvmlDeviceGetMaxPcieLinkGeneration", (handle,)),
        "pcie_max_width": ("nvmlDeviceGetMaxPcieLinkWidth", (handle,)),
    }
    found = {}
    for name, (function, arguments) in calls.items():
        with contextlib.suppress(pynvml.NVMLError):
            found[name] = int(getattr(pynvml, function)(*arguments))
    if "reasons" not in found:  # the name before driver 535
        with contextlib.suppress(pynvml.NVMLError):
            found["reasons"] = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return found
