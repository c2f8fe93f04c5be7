"""Turn the output lines of one device's process into ``DeviceFacts``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_type_hints

from envforge.verify.environment.facts import ProcessEnd
from envforge.verify.training.facts import DeviceFacts, LoadFacts, SpeedFloor
from envforge.verify.training.floors import floor_of
from envforge.verify.training.load import under_load
from envforge.verify.training.sampler import Sample
from envforge.verify.values import Signal

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
