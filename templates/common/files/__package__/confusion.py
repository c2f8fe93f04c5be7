"""How often each class was taken for each other one: a table, the scores that follow from it, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .checkpoint import write_aside

MOST_NUMBERS = 20  # with more classes than this there is no room for numbers in the cells


def scores_of(table: Tensor) -> dict[str, float]:
    """Accuracy and macro F1; the true classes are the rows of ``table``, the predicted ones its columns."""
    return {"accuracy": float(table.diagonal().sum() / table.sum()), "macro_f1": float(f1_scores(table).mean())}


def f1_scores(table: Tensor) -> Tensor:
    """For each class; 0 for one that was neither there nor predicted."""
    return 2 * table.diagonal() / (table.sum(dim=0) + table.sum(dim=1)).clamp(min=1)


def draw_confusion(table: Tensor, classes: Sequence[str], picture: Path) -> bool:
    """The table as colours, each row in parts of its class. False where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = table / table.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(12.0, 3 + 0.5 * len(classes))
    figure, axis = pyplot.subplots(figsize=(side, side))
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
    figure.tight_layout()
    write_aside(picture, lambda file: figure.savefig(file, format="png", dpi=120))
    pyplot.close(figure)
    return True
