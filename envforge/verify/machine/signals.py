"""Convert the output of ``driver_child`` to signals of GPUs.

A missing line is a timeout or a crash; they can't be distinguished (docs/decisions/0010).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from envforge.driver_health import SOURCES
from envforge.machine import Gpu
from envforge.machine.nvidia_text import clean
from envforge.verify.machine.gpu_facts import (
    Fabric,
    GpuFacts,
    Memory,
    Mode,
    Process,
    Reading,
    RemappedRows,
    RetiredPages,
)
from envforge.verify.values import Signal

T = TypeVar("T")

NOT_SUPPORTED = "not supported by this GPU or its driver"
NO_PERMISSION = "no permission to read it"
NO_ANSWER = "the driver did not respond in time, or crashed the process that queried it"
_MEANINGS = {
    3: NOT_SUPPORTED,
    13: NOT_SUPPORTED,
    4: NO_PERMISSION,
}  # NVML's codes: not supported, no function, no permission

Answers = Mapping[tuple[int, str], Mapping[str, Any]]


def read_answers(lines: str) -> Answers:
    """Return the answers by GPU and key; a line that isn't JSON was cut by a crash or written by a library."""
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    for line in lines.splitlines():
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(answer, dict) and answer.get("library") == "health":
            answers[answer["gpu"], answer["key"]] = answer
    return answers


def gpu_facts(gpu: Gpu, answers: Answers) -> GpuFacts:
    """Return all signals of one GPU."""

    def signal(key: str, read: Callable[[Any], T]) -> Signal[T]:
        return _signal(gpu.index, key, read, answers)

    return GpuFacts(
        index=gpu.index,
        name=gpu.name,
        bus_id=gpu.pci_bus_id,
        handle=signal("handle", bool),
        memory=signal("memory", lambda value: Memory(**value)),
        recovery=signal("recovery", int),
        ecc=signal("ecc", _mode),
        ecc_uncorrected=signal("ecc_uncorrected", int),
        ecc_uncorrected_ever=signal("ecc_uncorrected_ever", int),
        rows=signal("rows", _rows),
        retired_pages=signal("retired_pages", lambda value: RetiredPages(**value)),
        fabric=signal("fabric", lambda value: Fabric(**value)),
        links=signal("links", tuple),
        mig=signal("mig", _mode),
        compute_mode=signal("compute_mode", int),
        persistence=signal("persistence", bool),
        event_reasons=signal("event_reasons", int),
        power_mw=signal("power_mw", _reading),
        clocks_mhz=signal("clocks_mhz", _reading),
        application_clocks_mhz=signal("application_clocks_mhz", _reading),
        pcie_width=signal("pcie_width", _reading),
        pcie_generation=signal("pcie_generation", _reading),
        temperature_c=signal("temperature_c", int),
        processes=signal("processes", lambda value: tuple(Process(**process) for process in value)),
    )


def _signal(gpu: int, key: str, read: Callable[[Any], T], answers: Answers) -> Signal[T]:
    source = SOURCES[key]
    answer = answers.get((gpu, key))
    if answer is not None and "error" not in answer:
        return Signal(value=read(answer["value"]), source=source)
    handle = answers.get((gpu, "handle"), {})
    error = answer["error"] if answer is not None else handle.get("error")
    return Signal(source=source, unreadable=_reason(error) if error else NO_ANSWER)


def _reason(error: Mapping[str, Any]) -> str:
    code, text = error["code"], clean(str(error["text"]))
    return _MEANINGS.get(code, f"NVML error {code}: {text}")


def _mode(value: list[int]) -> Mode:
    return Mode(current=bool(value[0]), pending=bool(value[1]))


def _rows(value: list[int]) -> RemappedRows:
    correctable, uncorrectable, pending, failed = value
    return RemappedRows(
        correctable=correctable, uncorrectable=uncorrectable, pending=bool(pending), failed=bool(failed)
    )


def _reading(value: list[int]) -> Reading:
    return Reading(now=value[0], reference=value[1])
