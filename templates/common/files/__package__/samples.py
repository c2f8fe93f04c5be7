"""Provide samples as batches of inputs and answers, optionally with shuffled answers for the control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .split import shuffled


class Column(Protocol):
    """A tensor, or an object that creates the tensor of some samples on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int]) -> Tensor: ...


class Files:
    """``files[[3, 1]]`` reads these two files into one tensor."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path, int], Tensor], size: int) -> None:
        self.paths, self.read, self.size = paths, read, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor:
        return torch.stack([self.read(self.paths[index], self.size) for index in indices])


class Samples(Dataset[tuple[Tensor, ...]]):
    """``samples[[3, 1, 4]]`` returns one tensor per column with these three rows; ``answers`` is the last column."""

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
        """Give each sample the answer of another one, for the control."""
        self.answer_of = shuffled(len(self), seed)
