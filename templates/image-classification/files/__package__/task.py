"""Define what is learned: the loss, the evaluation, and the limits of the smoke test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .data import augment, mix
from .engine import run
from .engine.amp import Batch
from .engine.device import Precision
from .engine.run import Metric
from .engine.smoke import Limits
from .images import as_float
from .model import is_convolutional
from .scores import Confusion, balanced, scores_of, show_confusion


class Task(run.Task):
    metric = Metric("accuracy")
    unit = "images"

    def __init__(self, config: Config, about: dict[str, Any], device: torch.device) -> None:
        self.config, self.classes, self.device = config, about["classes"], device
        counts = torch.tensor(about["counts"], dtype=torch.float32, device=device)
        self.class_weights = balanced(counts) if config.class_weights else None

    def place(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        self.channels_last = is_convolutional(model)
        return super().place(model, device, precision)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over the images."""
        config, (images, targets) = self.config, batch
        images = augment(as_float(images), shift=config.shift, flip=config.flip)
        if config.mixup or config.cutmix:
            targets = functional.one_hot(targets, len(self.classes)).float()
            images, targets = mix(images, targets, mixup=config.mixup, cutmix=config.cutmix)
        losses = functional.cross_entropy(
            model(images), targets, self.class_weights, label_smoothing=config.label_smoothing, reduction="none"
        )
        return losses.mean()

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return mean loss, accuracy, and macro F1. A metric of your own is one more entry."""
        loss, table = self._confusion(model, batches).result()
        return {"loss": loss, **scores_of(table)}

    def show(self, model: nn.Module, batches: Iterable[Batch], run_dir: Path) -> list[str]:
        """Draw the confusion matrix."""
        return show_confusion(self._confusion(model, batches).table(), self.classes, run_dir)

    def _confusion(self, model: nn.Module, batches: Iterable[Batch]) -> Confusion:
        confusion = Confusion(self.classes, self.device)
        for images, labels in batches:
            confusion.add(model(as_float(images)), labels)
        return confusion


SMOKE = Limits(reach=0.9, control=0.3)  # five seeds: accuracy 0.97 to 0.99, control at most 0.17


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """The real model and real digits, but only for seconds; ``place``: device, precision, and run_dir."""
    return Config(**place, control=shuffled, shift=0, max_steps=60, batch_size=32, eval_every=20, lr=4e-3, log_every=5)
