"""Define the loss and the evaluation for tables: ``python -m PACKAGE.train``. ``loop.py`` has the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp, Batch
from .config import Config
from .data import load_data
from .device import Precision
from .distributed import share, total
from .drawing import pyplot, save
from .errors import exit_code
from .model import TableNet
from .run import run
from .samples import Samples
from .scoring import Scoring
from .task import Limits, Metric, Task
from .training import Training

MOST_POINTS = 5000  # in a picture


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="Train a model that predicts a column of a table from the others.")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Create data, model, and loss of a run; call ``prepare`` first."""
    data = load_data(config)
    model = TableNet(
        data.train[[0]][0].shape[1],
        data.sizes,
        len(data.labels) or 1,
        width=config.width,
        blocks=config.blocks,
        dropout=config.dropout,
    )

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        numbers, classes, targets = batch
        outputs = model(numbers, classes)
        if data.labels:
            return functional.cross_entropy(outputs, targets)
        return functional.mse_loss(outputs.squeeze(1).float(), targets)

    scoring = (
        Scoring(data.validation, data.labels, config.batch_size)
        if data.labels
        else NumberScoring(data.validation, data.scale, config.batch_size)
    )
    task = Task(
        model=model,
        train_data=data.train,
        train_size=len(data.train),
        loss=loss,
        evaluate=scoring.evaluate,
        metric=Metric("accuracy") if data.labels else Metric("r2"),
        show=scoring.show,
        unit="rows",
    )
    return Training(config, task, device, precision)


@dataclass(frozen=True)
class NumberScoring:
    """Evaluate a regression; ``scale`` is the mean and deviation of the target."""

    data: Samples
    scale: tuple[float, float]
    batch_size: int

    def evaluate(self, model: nn.Module, amp: Amp) -> dict[str, float]:
        """Return the mean squared error of the scaled target, its root in the target's unit, and R²."""
        count = len(self.data)
        sums = torch.zeros(3, device=next(model.parameters()).device)
        for indices in share(count, self.batch_size):
            true, predicted = self._predict(model, amp, indices)
            sums += torch.stack([(predicted - true).square().sum(), true.sum(), true.square().sum()])
        squares, target_sum, target_squares = total(sums)
        spread = target_squares - target_sum**2 / count
        r2 = 1 - squares / spread if spread > 0 else float("nan")
        return {"loss": squares / count, "rmse": (squares / count) ** 0.5 * self.scale[1], "r2": r2}

    def show(self, model: nn.Module, amp: Amp, run_dir: Path) -> list[str]:
        """Draw true and predicted numbers as ``predictions.png``."""
        mean, deviation = self.scale
        true, predicted = self._predict(model, amp, list(range(min(len(self.data), MOST_POINTS))))
        picture = run_dir / "predictions.png"
        drawn = draw_predictions(true.cpu() * deviation + mean, predicted.cpu() * deviation + mean, picture)
        return [f"true and predicted numbers: {picture}"] if drawn else []

    def _predict(self, model: nn.Module, amp: Amp, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the targets and the predictions, both scaled."""
        numbers, classes, targets = (tensor.to(next(model.parameters()).device) for tensor in self.data[indices])
        with amp.autocast():
            return targets, model(numbers, classes).squeeze(1).float()


def draw_predictions(true: Tensor, predicted: Tensor, picture: Path) -> bool:
    """Draw a point per row, and the line of perfect predictions. Return False without matplotlib."""
    plot = pyplot()
    if plot is None:
        return False
    figure, axis = plot.subplots(figsize=(5, 5))
    low, high = float(torch.minimum(true, predicted).min()), float(torch.maximum(true, predicted).max())
    axis.plot([low, high], [low, high], color="gray", linewidth=1)
    axis.scatter(true.tolist(), predicted.tolist(), s=8, alpha=0.6)
    axis.set_xlabel("true")
    axis.set_ylabel("predicted")
    save(figure, picture)
    return True


# four seeds: 0.92 to 0.95, control at most 0.69, with 0.63 of the tumors benign
SMOKE = Limits(reach=0.88, control=0.8, shuffled="targets")


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """The real model and real tumours, but only for seconds; ``place``: device, precision, and run_dir."""
    return Config(
        **place,
        shuffle_labels=shuffled,
        width=64,
        dropout=0.0,
        max_updates=60,
        batch_size=32,
        learning_rate=1e-3,
        log_every=5,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main, resumable=True))
