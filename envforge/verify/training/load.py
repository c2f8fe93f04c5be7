"""Summarize the NVML samples that were taken while a GPU was under load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from envforge.verify.machine.tables import event_reasons
from envforge.verify.training.facts import LoadFacts
from envforge.verify.training.sampler import Sample
from envforge.verify.values import Signal


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
