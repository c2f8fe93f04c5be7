"""Report how much memory the device ran out of, and find the largest batch that fits (``--auto-batch``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch

from . import compat, distributed
from .checkpoint import Checkpoints
from .device import Precision
from .errors import Hint, ProjectError
from .settings import LoopConfig
from .training import Training

Config = TypeVar("Config", bound=LoopConfig)
GIB = 2**30


def out_of_memory(config: LoopConfig, device: torch.device, error: Exception) -> ProjectError:
    """Return an error with the used memory and the ways to use less."""
    used = ""
    if device.type == "cuda":
        peak, size = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        used = f" at a peak of {peak / GIB:.2f} GiB out of {size / GIB:.2f} GiB"
    ways = []
    if config.batch_size > 1 and not config.auto_batch:
        ways.append(Hint("to find the largest batch that fits", option="--auto-batch"))
    if config.batch_size % 2 == 0:
        smaller = f"--batch-size {config.batch_size // 2} --accumulate {config.accumulate * 2}"
        ways.append(Hint("to make the same update from smaller batches", option=smaller))
    if config.precision in ("fp32", "tf32"):
        ways.append(Hint("to compute in 16 bits if the device supports it", option="--precision auto"))
    ways.append(Hint("use a smaller model or smaller inputs"))
    return ProjectError(
        f"out of memory{used}, with `--batch-size {config.batch_size}`: {str(error).splitlines()[0]}", hint=ways
    )


def fitting_batch(
    config: Config,
    build: Callable[[Config, torch.device, Precision], Training],
    device: torch.device,
    precision: Precision,
    say: Callable[[str], None],
) -> Config:
    """Double or halve the micro-batch until the largest one that fits is found; keep the effective batch size."""
    if config.resume and (state := Checkpoints(config.run_dir / "checkpoints", keep=1).newest(say)) is not None:
        then = state["config"]
        return dataclasses.replace(config, batch_size=then["batch_size"], accumulate=then["accumulate"])
    effective = config.batch_size * config.accumulate
    found = _largest(build(config, device, precision), effective)
    if found == 0:
        raise ProjectError("out of memory with a single sample", hint="use a smaller model or smaller inputs")
    say(f"auto batch: {found} samples in a micro-batch, {effective} in an update")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return dataclasses.replace(config, batch_size=found, accumulate=effective // found)


def _largest(training: Training, effective: int) -> int:
    most = training.task.train_size // distributed.ranks()
    sizes = [size for size in range(1, effective + 1) if effective % size == 0 and size <= most]
    return _search(sizes, training.config.batch_size, lambda size: _fits(training, size))


def _search(sizes: list[int], start: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of ``sizes`` that fits, in steps of at least a factor of 2 from ``start``; 0 if none does."""
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
    """Return whether an update of ``size`` samples fits on every rank. The caller rebuilds the model afterwards."""
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
