"""Load micro-batches in an order that a run can resume anywhere. Any map-style ``Dataset`` works.

The order depends only on seed, epoch, and position, and so do the random numbers that a dataset draws: each micro-batch
has its own seed, whichever process loads it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset, default_collate

from . import distributed
from .checkpoint import random_state, seed_everything, set_random_state
from .errors import ProjectError


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
    collate: Callable[[list[Any]], Any] = default_collate
    fingerprint: str = ""


class UnreadableError(ProjectError):
    """A sample cannot be read; it is reported and left out, up to ``limit`` of them in each process."""

    limit = 10


class Tensors(TensorDataset):
    """Samples in memory: the same rows of each tensor. The last tensor holds the answers."""

    draws_random_numbers = False

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return tuple(tensor[indices] for tensor in self.tensors)


def samples(dataset: Any, indices: list[int]) -> Any:
    """Return the samples as a list, or as a tuple of complete tensors if the dataset makes one."""
    if isinstance(dataset, Subset):  # that of torch 2.0 has no `__getitems__`
        return samples(dataset.dataset, [dataset.indices[index] for index in indices])
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


class Control(Dataset[Any]):
    """Training data in which each sample has the answer of another one."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.draws_random_numbers = getattr(dataset, "draws_random_numbers", True)
        self.answer_of = by_chance(len(dataset), seed + 1).tolist()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> Any:
        mine = samples(self.dataset, indices)
        others = samples(self.dataset, [self.answer_of[index] for index in indices])
        if isinstance(mine, list):
            return [_with_answer(one, other) for one, other in zip(mine, others)]
        return _with_answer(mine, others)


def _with_answer(sample: Any, other: Any) -> Any:
    """Return a sample, or a batch, with the answer of another one, which is the last part."""
    if isinstance(sample, dict):
        answer = [*sample][-1]
        return {**sample, answer: other[answer]}
    return (*sample[:-1], other[-1])


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
        self.size, self.seed, self.rank, self.ranks = size, seed, rank, ranks
        self.whole = batch_size * ranks
        self.epoch = self.position = 0
        if self.whole > size:
            raise ProjectError(
                f"a batch of {self.whole} samples is larger than the training data ({size} samples)",
                hint=f"to use smaller batches, pass `--batch-size {max(1, size // (2 * ranks))}`",
            )

    def batches(self, samples: int) -> int:
        """Return how many micro-batches ``samples`` make; the last one has a sample for each rank."""
        full, rest = divmod(samples, self.whole)
        return full + (rest >= self.ranks)

    def left(self) -> int:
        """Return the micro-batches that are left of this epoch."""
        return self.batches(self.size - self.position)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        indices = torch.randperm(self.size, generator=generator).tolist()
        start = self.position
        for _ in range(self.left()):
            samples = min(self.whole, self.size - start)  # of all ranks
            first, end = (start + samples * rank // self.ranks for rank in (self.rank, self.rank + 1))
            seed = hashlib.blake2b(repr((self.seed, self.epoch, first)).encode(), digest_size=4).digest()
            yield Draw(indices[first:end], int.from_bytes(seed, "big"))
            start += samples

    def advance(self, batches: int) -> int:
        """Count the next micro-batches as trained on; return the number of their samples on all ranks."""
        before = self.position
        self.position = min(before + batches * self.whole, self.size)
        return self.position - before

    def next_epoch(self) -> None:
        self.epoch += 1
        self.position = 0


class MicroBatches(Dataset[Any]):
    """A dataset of complete micro-batches: ``micro_batches[draw]``. Every rank must call the model in each of them."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], *, may_be_empty: bool = False) -> None:
        self.dataset, self.collate, self.may_be_empty = dataset, collate, may_be_empty
        self.is_random = getattr(dataset, "draws_random_numbers", True)
        self.skipped: set[int] = set()

    def __getitem__(self, draw: Draw) -> Any:
        state = random_state(cuda=False) if self.is_random else None
        try:
            if state is not None:
                seed_everything(draw.seed, cuda=False)
            own = self._readable(draw.indices) if draw.indices else []
            found = own or self._next_readable(max(draw.indices, default=-1) + 1)
            batch = found if isinstance(found, (tuple, dict)) else self.collate(found)
            if not own and self.may_be_empty:
                is_dict = isinstance(batch, dict)
                return {name: batch[name][:0] for name in batch} if is_dict else tuple(column[:0] for column in batch)
            return tuple(batch) if isinstance(batch, list) else batch
        except ProjectError as error:  # raised by the training process: torch would only pass on its traceback as text
            return error
        finally:
            if state is not None:  # go on as if nothing had been drawn
                set_random_state(state)

    def _next_readable(self, start: int) -> Any:
        size = len(self.dataset)
        for index in range(start, start + size):
            if found := self._readable([index % size]):
                return found
        raise ProjectError(f"none of {size} samples can be read", hint="repair or replace the files that were skipped")

    def _readable(self, indices: list[int]) -> Any:
        try:
            return samples(self.dataset, indices)
        except UnreadableError as error:
            if len(indices) > 1:
                return [sample for index in indices for sample in self._readable([index])]
            if indices[0] not in self.skipped:
                self.skipped.add(indices[0])
                print(f"skipped: {error.args[0]}", file=sys.stderr)
            if len(self.skipped) > error.limit:
                message = f"cannot read more than {error.limit} samples; the last error: {error.args[0]}"
                raise ProjectError(message, hint=error.hint) from error
            return []


def make_loader(data: Data, dataset: Dataset[Any], draws: Any, device: torch.device, workers: int) -> DataLoader[Any]:
    """Return a loader of the micro-batches that ``draws`` lists.

    It has its own generator: a loader without one draws from torch's global generator at the start of each epoch, and a
    resumed run starts an epoch more than an uninterrupted one.
    """
    return DataLoader(
        MicroBatches(dataset, data.collate, may_be_empty=not isinstance(draws, Order)),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the loader's micro-batches; raise ``ProjectError`` if a sample can't be read or a worker process dies."""
    is_direct = loader.num_workers == 0 and not loader.pin_memory  # the loader would have nothing to do
    try:
        for batch in map(loader.dataset.__getitem__, loader.sampler) if is_direct else loader:
            if isinstance(batch, ProjectError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ProjectError(
            f"a worker process that loads data died: {str(error).splitlines()[0]}",
            hint="after a bus error in a container, to enlarge /dev/shm, run `docker run --ipc=host IMAGE`; "
            "if the machine ran out of memory, to load in the training process, pass `--workers 0`",
        ) from error


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
    single = sorted(str(name) for name, indices in classes.items() if labels and len(indices) == 1)
    if single and distributed.rank() == 0:
        found = ", ".join(single[:5]) + (", …" if len(single) > 5 else "")
        print(f"warning: the validation data have none of these, because there is only one: {found}", file=sys.stderr)
    held_back: list[int] = []
    for indices in classes.values():
        most = len(indices) - 1 if labels else count
        held_back += indices[: min(most, max(1, round(len(indices) * part)))]
    if not 0 < len(held_back) < count:
        fewer = f"to validate on fewer of them, pass `--val-fraction {1 / max(count, 1):.2g}`"
        raise ProjectError(
            f"cannot split {count} {'sample' if count == 1 else 'samples'} with {len(held_back)} for validation",
            hint="add samples" if count < 2 or labels else fewer,
        )
    return sorted(held_back), sorted(set(range(count)) - set(held_back))


def fingerprint(parts: Sequence[object]) -> str:
    """Return a hash of names, sizes, or tensors that identifies the data of a run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode())
    return digest.hexdigest()
