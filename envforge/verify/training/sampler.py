"""Sample clocks, throttle reasons, power, and the PCIe link of each GPU under load, through NVML.

NVML is queried in a child process, several times a second, because a driver that hangs must not stop envforge. The
child runs ``main`` of this module, which prints one marked line per sample until it is killed.
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
    """One sample of one GPU; ``values`` are integers under the names in ``_read``."""

    at: float
    uuid: str
    values: dict[str, int]


@dataclass(slots=True)
class Samples:
    """The samples, empty until the sampler has ended."""

    said: tuple[Sample, ...] = ()


def sampler_command() -> list[str]:
    """Return the command of the sampling process, which imports nothing from the current directory."""
    return [sys.executable, "-I", "-S", "-c", _START, *sys.path, str(Path(__file__).resolve().parents[3])]


@contextlib.contextmanager
def sampling(world: World) -> Iterator[Samples]:
    """Sample while the block runs, and fill the samples when it ends."""
    from envforge.verify.environment.process import marked_lines  # noqa: PLC0415 - the sampling process doesn't need it

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
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel can't be killed
                process.wait(timeout=2.0)
            file.seek(0)
            lines = marked_lines(file.read().decode("utf-8", "replace"))
            samples.said = tuple(
                Sample(at=float(line["at"]), uuid=str(line["uuid"]), values=dict(line["values"])) for line in lines
            )


def main() -> None:
    """Sample every GPU until this process is killed or its parent has exited."""
    import pynvml  # noqa: PLC0415 - slow to import, and only this process needs it

    parent = os.getppid()
    pynvml.nvmlInit()
    gpus = dict(_gpus(pynvml))
    # if envforge is killed, nothing else ends this process
    while os.getppid() == parent:
        for uuid, handle in gpus.items():
            line = {"at": time.time(), "uuid": uuid, "values": _read(pynvml, handle)}
            sys.stdout.write("@envforge " + json.dumps(line) + "\n")
            sys.stdout.flush()  # querying the next GPU may hang
        time.sleep(INTERVAL_S)


def _gpus(pynvml: Any) -> Iterator[tuple[str, Any]]:
    """Yield the UUID and handle of each GPU that responds."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError):  # a lost GPU must not hide the others
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            yield _uuid(pynvml, handle), handle


def _uuid(pynvml: Any, handle: Any) -> str:
    value = pynvml.nvmlDeviceGetUUID(handle)
    return value.decode() if isinstance(value, bytes) else str(value)


def _read(pynvml: Any, handle: Any) -> dict[str, int]:
    """Return the values of one GPU; those that it or its driver lacks are omitted."""
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
    if "reasons" not in found:  # the name of this call before driver 535
        with contextlib.suppress(pynvml.NVMLError):
            found["reasons"] = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return found
