"""Samples as batches: what the model gets, then the answer; and the control, whose answers belong to other samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .split import shuffled


class Column(Protocol):
    """A tensor, or what makes one of some samples when they are needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int]) -> Tensor: ...


class Files:
    """``files[[3, 1]]`` reads these two and gives one tensor."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path, int], Tensor], size: int) -> None:
        self.paths, self.read, self.size = paths, read, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor:
        return torch.stack([self.read(self.paths[index], self.size) for index in indices])


class Samples(Dataset[tuple[Tensor, ...]]):
    """``samples[[3, 1, 4]]`` gives a tensor of each column, with these three rows; ``answers`` stand last."""

    def __init__(self, *inputs: Tensor | Column, answers: Tensor | Column) -> None:
        self.inputs, self.answers = inputs, answers
        self.answer_of = torch.arange(len(answers))  # which answer belongs to a sample
        self.in_memory = not isinstance(inputs[0], Files)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return *(column[indices] for column in self.inputs), self.answers[self.answer_of[indices].tolist()]

    def everything(self) -> tuple[Tensor, ...]:
        return self[list(range(len(self)))]

    def shuffle(self, seed: int) -> None:
        """For the control: each sample gets the answer of another one."""
        self.answer_of = shuffled(len(self), seed)
