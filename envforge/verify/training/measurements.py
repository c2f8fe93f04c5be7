"""Turn the output of measuring processes and NVML samples into facts.

NVML is queried in a child process, several times a second, because a driver that hangs must not stop envforge. The
child runs ``main`` of this module, which prints one marked line per sample until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from msgspec import Struct, field
from msgspec.structs import replace

from envforge.base.data_files import read_data
from envforge.base.process import ProcessEnd, marked_lines, started
from envforge.machine.driver_child import SIGNALS, call
from envforge.verify.environment.observe import OUTPUT, converted
from envforge.verify.machine.reference_data import event_reasons
from envforge.verify.training.facts import MEASUREMENTS, DeviceFacts, LoadFacts, Properties, SpeedFloor
from envforge.verify.values import Signal

if TYPE_CHECKING:
    from envforge.machine.world import World

T = TypeVar("T")
INTERVAL_S = 0.2
_START = "import sys; sys.path[:] = sys.argv[1:]; from envforge.verify.training.measurements import main; main()"


class Sample(Struct, frozen=True, kw_only=True):
    """One sample of one GPU; ``values`` are integers under the names in ``_read``."""

    at: float
    uuid: str
    values: dict[str, int]


def sampler_command() -> list[str]:
    """Return the command of the sampling process, which imports nothing from the current directory."""
    return [sys.executable, "-I", "-S", "-c", _START, *sys.path, str(Path(__file__).resolve().parents[3])]


@contextlib.contextmanager
def sampling(world: World) -> Iterator[list[Sample]]:
    """Sample while the block runs, and fill the list when it ends."""
    samples: list[Sample] = []
    # a pipe without a reader would block the sampler
    with tempfile.TemporaryFile() as file:
        try:
            with started(sampler_command(), world.environment, stdout=file, stderr=subprocess.DEVNULL) as process:
                yield samples
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel can't be killed
                process.wait(timeout=2.0)
            file.seek(0)
            lines = marked_lines(file.read().decode("utf-8", "replace"))
            # the last line can be incomplete, because the process was killed
            samples += OUTPUT.convert(lines, list[Sample])


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
            value = pynvml.nvmlDeviceGetUUID(handle)
            yield value.decode() if isinstance(value, bytes) else str(value), handle


# the values of a sample
_NVML = {
    "reasons": SIGNALS["event_reasons"][1],
    "sm_clock_mhz": call("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
    "max_sm_clock_mhz": call("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_SM"),
    "power_mw": call("nvmlDeviceGetPowerUsage"),
    "power_limit_mw": call("nvmlDeviceGetEnforcedPowerLimit"),
    "temperature_c": SIGNALS["temperature_c"][1],
    "pcie_generation": call("nvmlDeviceGetCurrPcieLinkGeneration"),
    "pcie_width": call("nvmlDeviceGetCurrPcieLinkWidth"),
    "pcie_max_generation": call("nvmlDeviceGetMaxPcieLinkGeneration"),
    "pcie_max_width": call("nvmlDeviceGetMaxPcieLinkWidth"),
}
_HIGHEST = ("max_sm_clock_mhz", "temperature_c", *(name for name in _NVML if name.startswith("pcie_")))


def _read(pynvml: Any, handle: Any) -> dict[str, int]:
    """Return the values of one GPU; those that it or its driver lacks are omitted."""
    found = {}
    for name, ask in _NVML.items():
        with contextlib.suppress(pynvml.NVMLError):  # most GPUs lack some of them
            found[name] = int(ask(pynvml, handle))
    return found


def under_load(samples: Sequence[Sample], uuid: str, spans: Sequence[tuple[float, float]]) -> Signal[LoadFacts]:
    """Return the samples of one GPU during ``spans``, summarized: medians, maximums, and counts of reasons."""
    source = "NVML, sampled under load"
    if not samples:
        return Signal(source=source, unreadable="no NVML samples")
    if not spans:
        return Signal(source=source, unreadable="the GPU was not put under load")
    # torch reports UUIDs without the prefix, NVML with it
    bare = uuid.removeprefix("GPU-")
    of_gpu = [s for s in samples if s.uuid.removeprefix("GPU-") == bare]
    # older torch has no UUID; if NVML reports one GPU, it must be that one
    if not of_gpu and len({s.uuid for s in samples}) == 1:
        of_gpu = list(samples)
    busy = [s for s in of_gpu if any(start <= s.at <= end for start, end in spans)]
    if not busy:
        return Signal(source=source, unreadable="no NVML sample while the GPU was under load")
    values = {name: [sample.values[name] for sample in busy if name in sample.values] for name in _NVML}
    counted = Counter(reason.name for mask in values["reasons"] for reason in event_reasons(mask))
    power, limit = values["power_mw"], values["power_limit_mw"]
    load = LoadFacts(
        samples=len(busy),
        reasons=dict(sorted(counted.items())) if values["reasons"] else None,
        sm_clock_mhz=int(median(values["sm_clock_mhz"])) if values["sm_clock_mhz"] else None,
        power_w=int(median(power)) / 1000 if power else None,
        power_limit_w=max(limit) / 1000 if limit else None,
        **{name: max(values[name], default=None) for name in _HIGHEST},
    )
    return Signal(value=load, source=source)


_SLICE = re.compile(r"MIG (\d)g\.")
_SLICES = 7


def floor_of(name: str) -> Signal[SpeedFloor]:
    """Return the row for a GPU by the name that the driver reports; a MIG slice gets its share of the speed."""
    source = "data/gpu_speeds.toml"
    row = next((row for pattern, row in speed_table() if pattern.search(name)), None)
    if row is None:
        return Signal(source=source, unreadable=f"the table has no row for `{name}`")
    part = _SLICE.search(name)
    if part is None:
        return Signal(value=row, source=source)
    # A100 and H100 have seven slices; an A30 has four, so its floor is too low, and never a false alarm
    share = int(part[1]) / _SLICES
    value = replace(
        row,
        model=f"{row.model}, MIG slice of {part[1]}/{_SLICES}",
        reference_tflops=row.reference_tflops * share,
        floor_tflops=row.floor_tflops * share,
    )
    return Signal(value=value, source=source)


@cache
def speed_table() -> tuple[tuple[re.Pattern[str], SpeedFloor], ...]:
    """Return each row and the pattern of GPU names that it is for, the most specific first."""
    table = read_data("gpu_speeds.toml", dict[str, Any])
    return tuple(
        (
            re.compile(row["name"]),
            SpeedFloor(
                model=row["model"],
                reference_tflops=float(row["reference_tflops"]),
                floor_tflops=round(row["reference_tflops"] * row["floor_share"], 1),
                source=table["sources"][row["source"]],
                checked=row["checked"],
            ),
        )
        for row in table["gpu"]
    )


class _ProcessOutput(Struct, kw_only=True):
    """The output of one measuring process."""

    asked: Sequence[str]
    end: ProcessEnd
    values: dict[str, Any] = field(default_factory=dict)
    raised: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    running: str | None = None

    def hear(self, line: dict[str, Any]) -> None:
        """Note a measurement that starts, ends, or fails, and when the GPU was under load."""
        event, name = line.get("event"), str(line.get("measure", ""))
        if event == "start":
            self.running = name
        elif event == "value":
            self.values[name], self.running = line.get("value"), None
        elif event == "raised":
            # CUDA errors can contain pages of advice
            self.raised[name], self.running = str(line.get("error"))[:2000], None
        elif event in ("load", "copies"):
            self.spans.append((float(line["from"]), float(line["to"])))

    def signal(self, name: str, kind: type[T]) -> Signal[T]:
        """Return the value of a measurement, or why there is none."""
        source = f"measurement `{name}`"
        if name not in self.values:
            return Signal(source=source, unreadable=self.raised.get(name) or self._why_not(name))
        return converted(self.values[name], kind, source)

    def _why_not(self, name: str) -> str:
        if name not in self.asked:
            return "not measured at this depth"
        if self.running == name:
            return f"{self.end.in_words} in this measurement"
        return f"not reached: {self.end.in_words}"


def device_facts(
    device: str, asked: Sequence[str], end: ProcessEnd, lines: Iterable[dict[str, Any]], samples: Sequence[Sample] = ()
) -> DeviceFacts:
    """Return the measurements that finished, the one that ran when the process died, and why others are missing."""
    found = _ProcessOutput(asked=asked, end=end)
    for line in lines:
        found.hear(line)
    known = found.signal("device", Properties).value or Properties()  # the process may have died before
    uuid = str(found.values.get("device", {}).get("uuid", ""))
    kinds = get_type_hints(DeviceFacts)
    signals: dict[str, Any] = {
        name: found.signal(name, get_args(kinds[name])[0]) for name in MEASUREMENTS if name not in ("device", "project")
    }
    is_gpu = device.startswith("cuda")
    no_gpu: Signal[Any] = Signal(unreadable="no GPU")
    return DeviceFacts(
        device=device,
        is_gpu=is_gpu,
        process=end,
        asked=tuple(asked),
        running=found.running,
        raised=found.raised,
        load=under_load(samples, uuid, found.spans) if is_gpu else no_gpu,
        floor=floor_of(known.name) if is_gpu else no_gpu,
        project=_project(found.signal("project", dict[str, str])),
        **{name: getattr(known, name) for name in known.__struct_fields__},
        **signals,
    )


def _project(found: Signal[dict[str, str]]) -> Signal[str]:
    if found.value is None:
        return Signal(unreadable=found.unreadable)
    return Signal(value=found.value["package"], source=found.value["file"])
