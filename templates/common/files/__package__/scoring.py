"""Score a classifier: how often each class was taken for each other one, what follows from that, and its picture."""

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

MOST_NUMBERS = 20  # with more classes than this there is no room for numbers in the cells


@dataclass(frozen=True)
class Scoring:
    """Unseen samples: ``data[indices]`` gives what the model takes and, last, the number of the class of each."""

    data: Any
    classes: Sequence[str]
    batch_size: int

    def evaluate(self, model: nn.Module, amp: Amp) -> dict[str, float]:
        """Mean loss, accuracy and macro F1, over all ranks."""
        loss, *counts = total(self._count(model, amp, share(len(self.data), self.batch_size)))
        return {"loss": loss / len(self.data), **scores_of(self._table(torch.tensor(counts)))}

    def show(self, model: nn.Module, amp: Amp, run_dir: Path) -> list[str]:
        """The table as ``confusion.png``, and the classes that were most often taken for another."""
        size, step = len(self.data), self.batch_size
        batches = (list(range(start, min(start + step, size))) for start in range(0, size, step))
        table = self._table(self._count(model, amp, batches)[1:].cpu())
        lines = [f"most often wrong: {', '.join(worst_pairs(table, self.classes)) or 'nothing'}"]
        picture = run_dir / "confusion.png"
        if draw_confusion(table, self.classes, picture):
            lines.append(f"confusions: {picture}")
        return lines

    def _count(self, model: nn.Module, amp: Amp, batches: Iterable[list[int]]) -> Tensor:
        """The summed loss, then how often each class was taken for each."""
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
    """Accuracy and macro F1; the true classes are the rows of ``table``, the predicted ones its columns."""
    return {"accuracy": float(table.diagonal().sum() / table.sum()), "macro_f1": float(f1_scores(table).mean())}


def f1_scores(table: Tensor) -> Tensor:
    """For each class; 0 for one that was neither there nor predicted."""
    return 2 * table.diagonal() / (table.sum(dim=0) + table.sum(dim=1)).clamp(min=1)


def worst_pairs(table: Tensor, classes: Sequence[str]) -> list[str]:
    """The three confusions that were most frequent, in words."""
    wrong = [(int(table[row, column]), row, column) for row, column in table.nonzero().tolist() if row != column]
    return [
        f"{classes[row]} as {classes[column]} ({count} of {int(table[row].sum())})"
        for count, row, column in sorted(wrong, reverse=True)[:3]
    ]


def draw_confusion(table: Tensor, classes: Sequence[str], picture: Path) -> bool:
    """The table as colours, each row in parts of its class. False where matplotlib is not installed."""
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
                colour = "white" if parts[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
    save(figure, picture)
    return True
