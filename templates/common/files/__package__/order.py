"""Compute the order of the samples from seed, epoch, and position, so that a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .device import usable_cpus
from .errors import Hint, ProjectError


class Order(Sampler[list[int]]):
    """Micro-batches of indices, shuffled for each epoch; ``position`` is how many of them were trained on.

    ``batch_size`` is the size on one rank. The micro-batches of several ranks at one position are consecutive parts of
    one batch, which is the same that a single rank would have with the total batch size.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.whole = batch_size * ranks
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Return the micro-batches of a complete epoch; the last one has at least one sample for each rank."""
        full, rest = divmod(self.size, self.whole)
        return full + (rest >= self.ranks)

    def samples(self, position: int) -> int:
        """Return how many samples all ranks together have at ``position``."""
        return min(self.whole, self.size - position * self.whole)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        indices = torch.randperm(self.size, generator=generator).tolist()
        for position in range(self.position, len(self)):
            start, samples = position * self.whole, self.samples(position)
            first, end = (samples * rank // self.ranks for rank in (self.rank, self.rank + 1))
            yield indices[start + first : start + end]

    def next_epoch(self) -> None:
        self.epoch += 1
        self.position = 0


def make_loader(dataset: Dataset[Any], order: Order, device: torch.device, workers: int) -> DataLoader[Any]:
    """Return a loader of complete micro-batches; ``dataset[indices]`` returns one.

    It has its own generator: a loader without one draws from torch's global generator at the start of each epoch, and a
    resumed run starts an epoch more than an uninterrupted one.
    """
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(order.seed),
    )


def whole_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the loader's batches; raise ``ProjectError`` if a worker process dies."""
    if loader.num_workers == 0 and not loader.pin_memory:  # faster without the loader, which has nothing to do
        yield from (loader.dataset[indices] for indices in loader.sampler)
        return
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ProjectError(
            f"a worker process that loads data died: {str(error).splitlines()[0]}",
            hint=(
                Hint("after a bus error in a container, to enlarge /dev/shm", command="docker run --ipc=host IMAGE"),
                Hint("if the machine ran out of memory, to load in the training process", option="--workers 0"),
            ),
        ) from error


def worker_count(requested: int, *, in_memory: bool) -> int:
    """Return the number of workers; ``-1``: 0 for data in memory, else the usable CPUs minus one, at most 8."""
    if requested >= 0:
        return requested
    return 0 if in_memory else min(8, max(1, usable_cpus() - 1))
