"""Define what is learned: the loss, the evaluation, and the limits of the smoke test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .engine import distributed, run
from .engine.amp import Batch
from .engine.log import pyplot, save_figure
from .engine.run import Metric
from .engine.smoke import Limits
from .scores import Confusion, balanced, scores_of, show_confusion

MOST_POINTS = 5000  # in a picture


class Task(run.Task):
    unit = "rows"

    def __init__(self, config: Config, about: dict[str, Any], device: torch.device) -> None:
        self.labels, self.device = about["labels"], device
        self.mean, self.deviation = about["mean"], about["deviation"]
        self.metric = Metric("accuracy" if self.labels else "r2")
        counts = torch.tensor(about["counts"], dtype=torch.float32, device=device)
        self.class_weights = balanced(counts) if config.class_weights and self.labels else None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over the rows, and over the members of the model, which learn by themselves."""
        numbers, classes, targets = batch
        outputs = model(numbers, classes)
        targets = targets.repeat_interleave(outputs.shape[1])
        if self.labels:
            return functional.cross_entropy(outputs.flatten(0, 1), targets, self.class_weights, reduction="none").mean()
        return functional.mse_loss(outputs.flatten().float(), targets)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return loss and scores of a classification, or of a regression: R², and the error in the target's unit."""
        if self.labels:
            loss, table = self._confusion(model, batches).result()
            return {"loss": loss, **scores_of(table)}
        sums = torch.zeros(4, device=self.device)
        for numbers, classes, targets in batches:
            error = (average(model(numbers, classes), self.labels) - targets).square().sum()
            sums += torch.stack([error, targets.sum(), targets.square().sum(), targets.new_tensor(len(targets))])
        squares, target_sum, target_squares, count = distributed.total(sums)
        spread = target_squares - target_sum**2 / count
        r2 = 1 - squares / spread if spread > 0 else float("nan")
        return {"loss": squares / count, "rmse": (squares / count) ** 0.5 * self.deviation, "r2": r2}

    def show(self, model: nn.Module, batches: Iterable[Batch], run_dir: Path) -> list[str]:
        """Draw the confusion matrix, or true and predicted numbers."""
        if self.labels:
            return show_confusion(self._confusion(model, batches).table(), self.labels, run_dir)
        pairs = [(targets, average(model(numbers, classes), self.labels)) for numbers, classes, targets in batches]
        true, predicted = (torch.cat(each)[:MOST_POINTS].cpu() * self.deviation + self.mean for each in zip(*pairs))
        drawn = draw_predictions(true, predicted, run_dir / "predictions.png")
        return [f"true and predicted numbers: {run_dir / 'predictions.png'}"] if drawn else []

    def _confusion(self, model: nn.Module, batches: Iterable[Batch]) -> Confusion:
        confusion = Confusion(self.labels, self.device)
        for numbers, classes, targets in batches:
            confusion.add(average(model(numbers, classes), self.labels), targets)
        return confusion


def average(outputs: Tensor, labels: list[str]) -> Tensor:
    """Return the logarithm of the members' mean probability (rows, classes), or their mean number (rows)."""
    if labels:
        return outputs.float().softmax(dim=2).mean(dim=1).clamp(min=1e-30).log()
    return outputs.float().mean(dim=(1, 2))


def draw_predictions(true: Tensor, predicted: Tensor, picture: Path) -> bool:
    """Draw a point per row, and the line of perfect predictions. Return False without matplotlib."""
    plot = pyplot()
    if plot is None:
        return False
    figure, axis = plot.subplots(figsize=(5, 5), layout="constrained")
    low, high = float(torch.minimum(true, predicted).min()), float(torch.maximum(true, predicted).max())
    axis.plot([low, high], [low, high], color="gray", linewidth=1, label="perfect")
    axis.scatter(true.tolist(), predicted.tolist(), s=8, alpha=0.6, label=f"{len(true)} rows")
    axis.set(xlabel="true", ylabel="predicted", title="Predictions on the validation data")
    axis.legend()
    save_figure(figure, picture)
    return True


# four seeds: 0.92 to 0.95, control at most 0.69, with 0.63 of the tumors benign
SMOKE = Limits(reach=0.88, control=0.8, shuffled="targets")


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """The real model and real tumors, but only for seconds; ``place``: device, precision, and run_dir."""
    size: dict[str, Any] = {"width": 64, "dropout": 0.0, "batch_size": 32}
    return Config(**place, **size, control=shuffled, max_steps=60, log_every=5)
