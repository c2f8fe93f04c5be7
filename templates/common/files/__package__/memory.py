"""When the device's memory is not enough: say how much was used, and find the batch that fits.

Enters: a configuration whose batch may be too large. Leaves: one with the largest micro-batch that fits and as many of
them in an update as make the same effective batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch

from . import compat, distributed
from .checkpoint import Checkpoints
from .device import Precision
from .errors import ProjectError
from .settings import LoopConfig
from .training import Training

Config = TypeVar("Config", bound=LoopConfig)
GIB = 2**30


def out_of_memory(config: LoopConfig, device: torch.device, error: Exception) -> ProjectError:
    """The error for people: what was used, and what to do."""
    used = ""
    if device.type == "cuda":
        peak, size = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        used = f" at a peak of {peak / GIB:.2f} GiB out of {size / GIB:.2f} GiB"
    half = max(1, config.batch_size // 2)
    return ProjectError(
        f"out of memory{used}, with --batch-size {config.batch_size}: {str(error).splitlines()[0]}",
        hint=f"--auto-batch finds what fits, or --batch-size {half} --accumulate {config.accumulate * 2} for the same "
        "update; bf16 or fp16 takes less than fp32",
    )


def fitting_batch(
    config: Config,
    build: Callable[[Config, torch.device, Precision], Training],
    device: torch.device,
    precision: Precision,
    say: Callable[[str], None],
) -> Config:
    """Double or halve the micro-batch until the largest that fits is found; the effective batch stays."""
    if config.resume and (state := Checkpoints(config.run_dir / "checkpoints", keep=1).newest(say)) is not None:
        then = state["config"]
        return dataclasses.replace(config, batch_size=then["batch_size"], accumulate=then["accumulate"])
    effective = config.batch_size * config.accumulate
    found = _largest(build(config, device, precision), effective)
    if found == 0:
        raise ProjectError("out of memory even with one sample", hint="a smaller model, or smaller inputs")
    say(f"auto batch: {found} samples at a time, {effective} in each update")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return dataclasses.replace(config, batch_size=found, accumulate=effective // found)


def _largest(training: Training, effective: int) -> int:
    most = training.task.train_size // distributed.ranks()
    sizes = [size for size in range(1, effective + 1) if effective % size == 0 and size <= most]
    return _search(sizes, training.config.batch_size, lambda size: _fits(training, size))


def _search(sizes: list[int], start: int, fits: Callable[[int], bool]) -> int:
    """The largest of ``sizes`` that fits, by steps of at least a factor of two from ``start``; 0 where none does."""
    size, found = start, 0
    while fits(size):
        found = size
        above = [larger for larger in sizes if larger >= 2 * size]
        if not above:
            return found
        size = above[0]
    while not found and size > 1:
        size = max(smaller for smaller in sizes if smaller <= size // 2)
        found = size if fits(size) else 0
    return found


def _fits(training: Training, size: int) -> bool:
    """Does one update of ``size`` samples fit on every rank? It moves weights: the caller builds the model anew."""
    try:
        batch = training.on_device(training.task.train_data[list(range(size))])
        training.model.train()
        with training.amp.autocast():
            loss = training.task.loss(training.model, batch)
        loss.backward()
        training.optimizer.step()
        failed = False
    except compat.OUT_OF_MEMORY:
        failed = True
    training.optimizer.zero_grad(set_to_none=True)
    return not distributed.largest(int(failed))
