"""Measure a classifier: its scores, its confusion matrix, and the weights of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .engine import distributed
from .engine.log import pyplot, save_figure

MOST_NUMBERS = 20  # more classes leave no space for numbers in the cells


class Confusion:
    """Count which class was predicted for which; rows of ``table()`` are true classes, over all ranks."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = classes
        count = len(classes)
        # float64 counts exactly up to 2**53, which float32 does only up to 16 million pixels; mps lacks float64
        place = "cpu" if device.type == "mps" else device
        self._sums = torch.zeros(1 + count * count, dtype=torch.float64, device=place)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Count ``scores`` (samples, classes) and ``labels`` (samples); adds up the cross-entropy, too."""
        count = len(self.classes)
        self._sums[0] += functional.cross_entropy(scores.float(), labels, reduction="sum").to(self._sums)
        cells = torch.bincount(labels * count + scores.argmax(dim=1), minlength=count * count)
        self._sums[1:] += cells.to(self._sums)

    def result(self) -> tuple[float, Tensor]:
        """Return mean cross-entropy and table, summed over all ranks. Waits for the device."""
        self._sums = torch.tensor(distributed.total(self._sums), dtype=torch.float64)
        table = self.table()
        return float(self._sums[0]) / max(1.0, float(table.sum())), table

    def table(self) -> Tensor:
        """Return the counts of this rank."""
        return self._sums[1:].cpu().view(len(self.classes), len(self.classes))


def scores_of(table: Tensor) -> dict[str, float]:
    """Return accuracy and macro F1; rows of ``table`` are true classes, columns are predicted ones."""
    return {"accuracy": float(table.diagonal().sum() / table.sum()), "macro_f1": float(f1_scores(table).mean())}


def f1_scores(table: Tensor) -> Tensor:
    """Return the F1 score of each class; 0 for a class that is neither present nor predicted."""
    return 2 * table.diagonal() / (table.sum(dim=0) + table.sum(dim=1)).clamp(min=1)


def balanced(counts: Tensor) -> Tensor:
    """Return one weight per class, inversely to its count, with mean 1 over the samples."""
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def show_confusion(table: Tensor, classes: Sequence[str], run_dir: Path) -> list[str]:
    """Draw the table as ``confusion.png``, with each row normalized; return the most frequent errors as lines."""
    lines = [f"most frequent errors: {', '.join(worst_pairs(table, classes)) or 'none'}"]
    plot = pyplot()
    if plot is None:
        return lines
    parts = table / table.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(12.0, 3 + 0.5 * len(classes))
    figure, axis = plot.subplots(figsize=(side + 1, side), layout="constrained")
    image = axis.imshow(parts.tolist(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="part of the true class", shrink=0.8)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true", title="Predictions on the validation data")
    if len(classes) <= MOST_NUMBERS:
        for row, counts in enumerate(table.tolist()):
            for column, count in enumerate(counts):
                color = "white" if parts[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count:.0f}", ha="center", va="center", color=color)
    picture = run_dir / "confusion.png"
    save_figure(figure, picture)
    return [*lines, f"confusion matrix: {picture}"]


def worst_pairs(table: Tensor, classes: Sequence[str]) -> list[str]:
    """Describe the three most frequent confusions."""
    wrong = [(int(table[row, column]), row, column) for row, column in table.nonzero().tolist() if row != column]
    return [
        f"{classes[row]} as {classes[column]} ({count} of {int(table[row].sum())})"
        for count, row, column in sorted(wrong, reverse=True)[:3]
    ]
