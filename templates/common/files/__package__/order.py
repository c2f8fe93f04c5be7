"""In which order the samples come: a function of seed, epoch and position, so that a run can continue anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .device import usable_cpus
from .errors import ProjectError


class Order(Sampler[list[int]]):
    """Micro-batches of indices, shuffled anew for each epoch; ``position`` counts those already trained on.

    ``batch_size`` is that of one rank. Where there are several, their micro-batches of one position are consecutive
    parts of one shuffled stretch, the same that a single rank would have with a batch of that whole size.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.whole = batch_size * ranks
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Micro-batches in a whole epoch; the last may be short, but never without a sample for each rank."""
        full, rest = divmod(self.size, self.whole)
        return full + (rest >= self.ranks)

    def samples(self, position: int) -> int:
        """Samples that all ranks together have at ``position``."""
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
    """A loader of whole micro-batches: ``dataset[indices]`` gives one.

    It has a generator of its own: a loader without one draws from torch's global generator whenever an epoch starts,
    and a resumed run, which starts one more, would drift.
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
    """The loader's batches; a loading process that dies becomes an error with a way out."""
    if loader.num_workers == 0 and not loader.pin_memory:  # nothing is left for the loader to do but to take its time
        yield from (loader.dataset[indices] for indices in loader.sampler)
        return
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ProjectError(
            f"a process that loads data has died: {str(error).splitlines()[0]}",
            hint="after a bus error /dev/shm is too small (docker run --shm-size 8g, or --ipc=host), after a kill the "
            "machine's memory is; --workers 0 loads in the training process",
        ) from error


def worker_count(requested: int, *, in_memory: bool) -> int:
    """``-1`` decides: none for data in memory, else one for each usable CPU but the trainer's, at most 8."""
    if requested >= 0:
        return requested
    return 0 if in_memory else min(8, max(1, usable_cpus() - 1))
