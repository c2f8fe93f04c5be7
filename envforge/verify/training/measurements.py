"""Turn the output of measuring processes and NVML samples into facts.

NVML is queried in a child process, several times a second, because a driver that hangs must not stop envforge. The
child runs ``main`` of this module, which prints one marked line per sample until it is killed.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from envforge.base.process import ProcessEnd
from envforge.base.records import Document, Fields, WrongValue, read_text
from envforge.errors import EnvforgeError
from envforge.verify.machine.reference_data import event_reasons
from envforge.verify.training.facts import DeviceFacts, LoadFacts, SpeedFloor
from envforge.verify.values import Signal

if TYPE_CHECKING:
    from envforge.machine.world import World

INTERVAL_S = 0.2
_START = "import sys; sys.path[:] = sys.argv[1:]; from envforge.verify.training.measurements import main; main()"


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
    from envforge.base.process import marked_lines  # noqa: PLC0415 - the sampling process doesn't need it

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
    masks = _values(busy, "reasons")
    counted = Counter(reason.name for mask in masks for reason in event_reasons(mask))
    return Signal(
        value=LoadFacts(
            samples=len(busy),
            reasons=dict(sorted(counted.items())) if masks else None,
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


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SLICE = re.compile(r"MIG (\d)g\.")
_SLICES = 7


class SpeedTableError(EnvforgeError):
    """The table of speeds is invalid."""


def floor_of(name: str) -> Signal[SpeedFloor]:
    """Return the row for a GPU by the name that the driver reports; a MIG slice gets its share of the speed."""
    source = "data/gpu_speeds.toml"
    row = next((row for pattern, row in speed_table() if pattern.search(name)), None)
    if row is None:
        return Signal(source=source, unreadable=f"the table has no row for `{name}`")
    part = _SLICE.search(name)
    if part is None:
        return Signal(value=row, source=source)
    share = int(part[1]) / _SLICES
    return Signal(
        value=SpeedFloor(
            model=f"{row.model}, MIG slice of {part[1]}/{_SLICES}",
            reference_tflops=row.reference_tflops * share,
            floor_tflops=row.floor_tflops * share,
            source=row.source,
            checked=row.checked,
        ),
        source=source,
    )


@cache
def speed_table() -> tuple[tuple[re.Pattern[str], SpeedFloor], ...]:
    """Return each row and the pattern of GPU names that it is for, the most specific first."""
    file = importlib.resources.files("envforge") / "data" / "gpu_speeds.toml"
    document = Document(
        damaged=f"invalid data file `{file}`",
        error=SpeedTableError,
        code="speed-table-damaged",
        hint="install envforge again",
        mapping="a table",
    )
    top = Fields(document, "", tomllib.loads(file.read_text(encoding="utf-8")))
    sources = top.inner("sources")
    return tuple(_row(row, sources) for row in top.items("gpu"))


def _row(row: Fields, sources: Fields) -> tuple[re.Pattern[str], SpeedFloor]:
    reference, share = row.need("reference_tflops", _read_number), row.need("floor_share", _read_number)
    floor = SpeedFloor(
        model=row.need("model", read_text),
        reference_tflops=reference,
        floor_tflops=round(reference * share, 1),
        source=sources.need(row.need("source", read_text), read_text),
        checked=row.need("checked", read_text),
    )
    return re.compile(row.need("name", read_text)), floor


def _read_number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise WrongValue("a number above 0")
    return float(value)


MEASURES = (
    "matmul", "convolution", "attention", "learning", "guard", "control", "scaler", "compare", "throughput",
    "transfer", "repeat", "same_bits", "compiled", "models",
)  # fmt: skip


def device_facts(
    device: str,
    asked: Sequence[str],
    end: ProcessEnd,
    lines: Iterable[dict[str, Any]],
    samples: Sequence[Sample] = (),
) -> DeviceFacts:
    """Return the measurements that finished, the one that ran when the process died, and why others are missing."""
    values: dict[str, Any] = {}
    raised: dict[str, str] = {}
    spans: list[tuple[float, float]] = []
    running: str | None = None
    for line in lines:
        event, name = line.get("event"), str(line.get("measure", ""))
        if event == "start":
            running = name
        elif event == "value":
            values[name], running = line.get("value"), None
        elif event == "raised":
            raised[name], running = str(line.get("error"))[:2000], None
        elif event in ("load", "copies"):
            spans.append((float(line["from"]), float(line["to"])))
    known = values.get("device") or {}
    known_facts = ("torch", "cuda", "capability", "memory_bytes", "native_bf16", "low", "threads")
    signals: dict[str, Any] = {name: known.get(name) for name in known_facts}
    signals |= {name: _signal(name, values, raised, _why_not(name, asked, end, running)) for name in MEASURES}
    is_gpu = device.startswith("cuda")
    uuid = str(known.get("uuid") or "")
    load: Signal[LoadFacts] = Signal(unreadable="no GPU")
    floor: Signal[SpeedFloor] = Signal(unreadable="no GPU")
    if is_gpu:
        load, floor = under_load(samples, uuid, spans), floor_of(str(known.get("name", "")))
    return DeviceFacts(
        device=device,
        is_gpu=is_gpu,
        process=end,
        asked=tuple(asked),
        running=running,
        raised=raised,
        load=load,
        floor=floor,
        project=_project(values, raised, _why_not("project", asked, end, running)),
        name=str(known.get("name", "")),
        **signals,
    )


def _why_not(name: str, asked: Sequence[str], end: ProcessEnd, running: str | None) -> str:
    if name not in asked:
        return "not measured at this depth"
    if running == name:
        return f"{end.in_words} in this measurement"
    return f"not reached: {end.in_words}"


def _project(values: dict[str, Any], raised: dict[str, str], why_not: str) -> Signal[str]:
    if "project" in values:
        return Signal(value=str(values["project"]["package"]), source=str(values["project"]["file"]))
    return Signal(unreadable=raised.get("project", why_not))


def _signal(name: str, values: dict[str, Any], raised: dict[str, str], why_not: str) -> Signal[Any]:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - heavy, and only `verify` needs it

    source = f"measurement `{name}`"
    if name in raised:
        return Signal(source=source, unreadable=raised[name])
    if name not in values:
        return Signal(source=source, unreadable=why_not)
    kind = get_args(get_type_hints(DeviceFacts)[name])[0]
    try:
        return Signal(value=TypeAdapter(kind).validate_python(values[name]), source=source)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return Signal(source=source, unreadable=f"invalid output of the process: {place}: {first['msg']}")
