"""Evaluate a classifier: confusion matrix, accuracy, and macro F1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp
from .distributed import share, total
from .drawing import pyplot, save

MOST_NUMBERS = 20  # more classes leave no space for numbers in the cells


@dataclass(frozen=True)
class Scoring:
    """Validation samples: ``data[indices]`` returns the model's inputs and, last, the class numbers."""

    data: Any
    classes: Sequence[str]
    batch_size: int

    def evaluate(self, model: nn.Module, amp: Amp) -> dict[str, float]:
        """Return mean loss, accuracy, and macro F1 over all ranks."""
        loss, *counts = total(self._count(model, amp, share(len(self.data), self.batch_size)))
        return {"loss": loss / len(self.data), **scores_of(self._table(torch.tensor(counts)))}

    def show(self, model: nn.Module, amp: Amp, run_dir: Path) -> list[str]:
        """Draw the confusion matrix as ``confusion.png``, and return the most frequent errors."""
        size, step = len(self.data), self.batch_size
        batches = (list(range(start, min(start + step, size))) for start in range(0, size, step))
        table = self._table(self._count(model, amp, batches)[1:].cpu())
        lines = [f"most frequent errors: {', '.join(worst_pairs(table, self.classes)) or 'none'}"]
        picture = run_dir / "confusion.png"
        if draw_confusion(table, self.classes, picture):
            lines.append(f"confusion matrix: {picture}")
        return lines

    def _count(self, model: nn.Module, amp: Amp, batches: Iterable[list[int]]) -> Tensor:
        """Return the summed loss, followed by the cells of the confusion matrix."""
        device, classes = next(model.parameters()).device, len(self.classes)
        sums = torch.zeros(1 + classes * classes, device=device)
        for indices in batches:
            *inputs, labels = (tensor.to(device) for tensor in self.data[indices])
            with amp.autocast():
                scores = model(*inputs)
                sums[0] += functional.cross_entropy(scores, labels, reduction="sum").float()
            sums[1:] += torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes * classes)
        return sums

    def _table(self, counts: Tensor) -> Tensor:
        return counts.view(len(self.classes), len(self.classes))


def scores_of(table: Tensor) -> dict[str, float]:
    """Return accuracy and macro F1; rows of ``table`` are true classes, columns are predicted ones."""
    return {"accuracy": float(table.diagonal().sum() / table.sum()), "macro_f1": float(f1_scores(table).mean())}


def f1_scores(table: Tensor) -> Tensor:
    """Return the F1 score of each class; 0 for a class that is neither present nor predicted."""
    return 2 * table.diagonal() / (table.sum(dim=0) + table.sum(dim=1)).clamp(min=1)


def worst_pairs(table: Tensor, classes: Sequence[str]) -> list[str]:
    """Describe the three most frequent confusions."""
    wrong = [(int(table[row, column]), row, column) for row, column in table.nonzero().tolist() if row != column]
    return [
        f"{classes[row]} as {classes[column]} ({count} of {int(table[row].sum())})"
        for count, row, column in sorted(wrong, reverse=True)[:3]
    ]


def draw_confusion(table: Tensor, classes: Sequence[str], picture: Path) -> bool:
    """Draw the table with each row normalized to its class. Return False without matplotlib."""
    plot = pyplot()
    if plot is None:
        return False
    parts = table / table.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(12.0, 3 + 0.5 * len(classes))
    figure, axis = plot.subplots(figsize=(side, side))
    axis.imshow(parts.tolist(), cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(classes) <= MOST_NUMBERS:
        for row, counts in enumerate(table.tolist()):
            for column, count in enumerate(counts):
                color = "white" if parts[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count:.0f}", ha="center", va="center", color=color)
    save(figure, picture)
    return True
