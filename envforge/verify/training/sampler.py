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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from envforge.verify.training.facts import LoadFacts
from envforge.verify.values import Signal

if TYPE_CHECKING:
    from envforge.probe import World

INTERVAL_S = 0.2
# NVML header, nvmlClocksEventReasons
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
_START = "import sys; sys.path[:] = sys.argv[1:]; from envforge.verify.training.sampler import main; main()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One reading of one GPU; ``values`` are integers under the names that ``_read`` gives them."""

    at: float
    uuid: str
    values: dict[str, int]


class Samples:
    """What the sampler has said so far; empty where none runs."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = file

    def read(self) -> tuple[Sample, ...]:
        """Every whole line."""
        from envforge.verify.environment.process import marked_lines  # noqa: PLC0415 - not in the sampling process

        if self._file is None or self._file.closed:
            return ()
        self._file.seek(0)
        lines = marked_lines(self._file.read().decode("utf-8", "replace"))
        return tuple(
            Sample(at=float(line["at"]), uuid=str(line["uuid"]), values=dict(line["values"])) for line in lines
        )


def sampler_command() -> list[str]:
    """The command of the sampling process: this interpreter with its module path, and nothing of the current folder."""
    return [sys.executable, "-I", "-S", "-c", _START, *sys.path, str(Path(__file__).resolve().parents[3])]


@contextlib.contextmanager
def sampling(world: World) -> Iterator[Samples]:
    """Sample while the block runs; what was said is read afterwards, within the surrounding block too."""
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - read after this block, and closed when it is forgotten
    process = subprocess.Popen(
        sampler_command(),
        env=dict(world.environment),
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Samples(file)
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs inside the driver, and is left behind
            process.wait(timeout=2.0)


def under_load(samples: Sequence[Sample], uuid: str, spans: Sequence[tuple[float, float]]) -> Signal[LoadFacts]:
    """What was sampled of one GPU while it worked."""
    source = "NVML, sampled under load"
    if not samples:
        return Signal(source=source, unreadable="NVML gave no samples")
    if not spans:
        return Signal(source=source, unreadable="the GPU was not put under load")
    bare = uuid.removeprefix("GPU-")
    of_gpu = [s for s in samples if s.uuid.removeprefix("GPU-") == bare]
    if not of_gpu and len({s.uuid for s in samples}) == 1:
        of_gpu = list(samples)
    busy = [s for s in of_gpu if any(start <= s.at <= end for start, end in spans)]
    if not busy:
        return Signal(source=source, unreadable="no sample fell into the time under load")
    counted: Counter[str] = Counter()
    for sample in busy:
        mask = sample.values.get("reasons", 0)
        counted.update(name for bit, name in REASONS.items() if mask & bit)
    return Signal(
        value=LoadFacts(
            samples=len(busy),
            reasons=dict(sorted(counted.items())),
            sm_clock_mhz=_middle(busy, "sm_clock_mhz"),
            max_sm_clock_mhz=_largest(busy, "max_sm_clock_mhz"),
            power_w=_watts(_middle(busy, "power_mw")),
            power_limit_w=_watts(_largest(busy, "power_limit_mw")),
            temperature_c=_largest(busy, "temperature_c"),
            pcie_generation=_largest(busy, "pcie_generation"),
            pcie_width=_largest(busy, "pcie_width"),
            pcie_max_generation=_largest(busy, "pcie_max_generation"),
            pcie_max_width=_largest(busy, "pcie_max_width"),
        ),
        source=source,
    )


def _values(samples: Sequence[Sample], name: str) -> list[int]:
    return [sample.values[name] for sample in samples if name in sample.values]


def _middle(samples: Sequence[Sample], name: str) -> int | None:
    values = _values(samples, name)
    return int(median(values)) if values else None


def _largest(samples: Sequence[Sample], name: str) -> int | None:
    return max(_values(samples, name), default=None)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def main() -> None:
    """Sample every GPU until somebody kills us, or nobody is left who could."""
    import pynvml  # noqa: PLC0415 - slow to import, and only this process needs it

    parent = os.getppid()
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    while os.getppid() == parent:
        for handle in handles:
            line = {"at": time.time(), "uuid": _uuid(pynvml, handle), "values": _read(pynvml, handle)}
            sys.stdout.write("@envforge " + json.dumps(line) + "\n")
        sys.stdout.flush()
        time.sleep(INTERVAL_S)


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
