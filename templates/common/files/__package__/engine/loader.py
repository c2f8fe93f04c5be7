"""Load micro-batches in an order that a run can resume anywhere. Any map-style ``Dataset`` works.

The order depends only on seed, epoch, and position, and so do the random numbers that a dataset draws: each micro-batch
has its own seed, whichever process loads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from . import distributed
from .checkpoint import random_state, seed_everything, set_random_state
from .errors import Hint, ProjectError

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and validation data, and ``about``: all that ``predict`` must know of them, as plain values.

    A dataset returns a tuple for an index, with the answer last, or for ``__getitems__(indices)`` a tuple of complete
    tensors. ``lazy`` data are read by worker processes. ``fingerprint`` differs if the data have changed.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    about: dict[str, Any] = field(default_factory=dict)
    lazy: bool = True
    collate: Collate = default_collate
    fingerprint: str = ""


class UnreadableError(ProjectError):
    """A sample cannot be read; it is reported and left out, up to ``limit`` of them in each process."""

    limit = 10


class Tensors(Dataset[tuple[Tensor, ...]]):
    """Samples in memory: the same rows of each tensor. The last tensor holds the answers."""

    draws_random_numbers = False

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return tuple(column[indices] for column in self.columns)


class Control(Dataset[Any]):
    """Training data in which each sample has the answer of another one."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.draws_random_numbers = getattr(dataset, "draws_random_numbers", True)
        self.answer_of = by_chance(len(dataset), seed + 1).tolist()
        if hasattr(dataset, "__getitems__"):
            self.__getitems__ = self._getitems

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return (*self.dataset[index][:-1], self.dataset[self.answer_of[index]][-1])

    def _getitems(self, indices: list[int]) -> Any:
        mine, others = (
            self.dataset.__getitems__(indices),
            self.dataset.__getitems__([self.answer_of[index] for index in indices]),
        )
        if isinstance(mine, tuple):
            return (*mine[:-1], others[-1])
        return [(*one[:-1], other[-1]) for one, other in zip(mine, others)]


class Draw(NamedTuple):
    """The samples of one micro-batch, and the seed of the random numbers that they draw."""

    indices: list[int]
    seed: int


class Order(Sampler[Draw]):
    """Micro-batches in the order of training; ``position`` is how many samples of this epoch all ranks have trained on.

    ``batch_size`` is the size on one rank. The micro-batches of several ranks at one position are consecutive parts of
    one batch, which is the same that a single rank would have with the total batch size.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.size, self.seed = size, seed
        self.rank, self.ranks = rank, ranks
        self.whole = batch_size * ranks
        self.epoch = 0
        self.position = 0

    def left(self) -> int:
        """Return the micro-batches that are left of this epoch; the last one has a sample for each rank."""
        full, rest = divmod(self.size - self.position, self.whole)
        return full + (rest >= self.ranks)

    def in_epoch(self) -> int:
        """Return the micro-batches of a complete epoch."""
        full, rest = divmod(self.size, self.whole)
        return full + (rest >= self.ranks)

    def samples(self, start: int) -> int:
        """Return how many samples all ranks together have from ``start`` on, in one micro-batch each."""
        return min(self.whole, self.size - start)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        indices = torch.randperm(self.size, generator=generator).tolist()
        start = self.position
        for _ in range(self.left()):
            samples = self.samples(start)
            first, end = (start + samples * rank // self.ranks for rank in (self.rank, self.rank + 1))
            seed = hashlib.blake2b(repr((self.seed, self.epoch, first)).encode(), digest_size=4).digest()
            yield Draw(indices[first:end], int.from_bytes(seed, "big"))
            start += samples

    def advance(self, batches: int) -> int:
        """Count the next micro-batches as trained on; return the number of their samples on all ranks."""
        before = self.position
        for _ in range(batches):
            self.position += self.samples(self.position)
        return self.position - before

    def next_epoch(self) -> None:
        self.epoch += 1
        self.position = 0


class MicroBatches(Dataset[Any]):
    """A dataset of complete micro-batches: ``micro_batches[draw]``."""

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate
        self.is_random = getattr(dataset, "draws_random_numbers", True)
        self.skipped: set[int] = set()

    def __getitem__(self, draw: Draw) -> Any:
        try:
            with seeded(draw.seed) if self.is_random else contextlib.nullcontext():
                return self._collated(draw.indices)
        except ProjectError as error:  # raised by the training process: torch would only pass on its traceback as text
            return error

    def _collated(self, indices: list[int]) -> Any:
        try:
            items = self._items(indices)
        except UnreadableError:
            items = [item for index in indices for item in self._readable(index)]
        if isinstance(items, tuple):
            return items
        batch = self.collate(items)
        return tuple(batch) if isinstance(batch, list) else batch

    def _items(self, indices: list[int]) -> Any:
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def _readable(self, index: int) -> Any:
        try:
            return self._items([index])
        except UnreadableError as error:
            if index not in self.skipped:
                self.skipped.add(index)
                print(f"skipped: {error.args[0]}", file=sys.stderr)
            if len(self.skipped) > error.limit:
                message = f"cannot read more than {error.limit} samples; the last error: {error.args[0]}"
                raise ProjectError(message, hint=error.hints) from error
            return ()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While entered, draw random numbers from ``seed``; afterwards, go on as if nothing had been drawn."""
    state = random_state(cuda=False)
    seed_everything(seed, cuda=False)
    try:
        yield
    finally:
        set_random_state(state)


def make_loader(data: Data, dataset: Dataset[Any], draws: Any, device: torch.device, workers: int) -> DataLoader[Any]:
    """Return a loader of the micro-batches that ``draws`` lists.

    It has its own generator: a loader without one draws from torch's global generator at the start of each epoch, and a
    resumed run starts an epoch more than an uninterrupted one.
    """
    return DataLoader(
        MicroBatches(dataset, data.collate),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the loader's micro-batches; raise ``ProjectError`` if a sample can't be read or a worker process dies."""
    direct = loader.num_workers == 0 and not loader.pin_memory  # the loader would have nothing to do
    source = (loader.dataset[draw] for draw in loader.sampler) if direct else iter(loader)
    while True:
        try:
            batch = next(source, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ProjectError(
                f"a worker process that loads data died: {str(error).splitlines()[0]}",
                hint=(
                    Hint(
                        "after a bus error in a container, to enlarge /dev/shm", command="docker run --ipc=host IMAGE"
                    ),
                    Hint("if the machine ran out of memory, to load in the training process", option="--workers 0"),
                ),
            ) from error
        if batch is None:
            return
        if isinstance(batch, ProjectError):
            raise batch
        yield batch


def in_order(size: int, batch_size: int) -> list[Draw]:
    """Return this rank's share of an evaluation, the same number of micro-batches on each rank.

    A sharded model exchanges weights in each of them, so an unequal number would never end. One may be empty.
    """
    rank, ranks = distributed.rank(), distributed.ranks()
    mine = list(range(rank, size, ranks))
    count = math.ceil(math.ceil(size / ranks) / batch_size)
    return [Draw(mine[len(mine) * n // count : len(mine) * (n + 1) // count], 0) for n in range(count)]


def by_chance(count: int, seed: int = 2000) -> Tensor:
    """Return 0 to ``count`` in an order that depends only on the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def split(count: int, part: float, *, labels: Sequence[Any] = (), seed: int = 2000) -> tuple[list[int], list[int]]:
    """Return the indices for validation (about ``part`` of all, or of each class) and for training, at least one each.

    A class with one sample is for training only, because a model can't predict what it never saw; a warning names it.
    """
    classes: dict[Any, list[int]] = {}
    for index in by_chance(count, seed).tolist():
        classes.setdefault(labels[index] if labels else None, []).append(index)
    held_back: list[int] = []
    single = [str(name) for name, indices in classes.items() if labels and len(indices) == 1]
    if single and distributed.rank() == 0:
        found = ", ".join(sorted(single)[:5]) + (", …" if len(single) > 5 else "")
        print(f"warning: the validation data have none of these, because there is only one: {found}", file=sys.stderr)
    for indices in classes.values():
        most = len(indices) - 1 if labels else count
        held_back += indices[: min(most, max(1, round(len(indices) * part)))]
    if not 0 < len(held_back) < count:
        raise ProjectError(
            f"cannot split {count} {'sample' if count == 1 else 'samples'} with {len(held_back)} for validation",
            hint="add samples" if count < 2 or labels else "to validate on fewer of them",
            option="" if count < 2 or labels else f"--val-fraction {1 / count:.2g}",
        )
    return sorted(held_back), sorted(set(range(count)) - set(held_back))


def fingerprint(parts: Sequence[object]) -> str:
    """Return a hash of names, sizes, or tensors that identifies the data of a run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode())
    return digest.hexdigest()
