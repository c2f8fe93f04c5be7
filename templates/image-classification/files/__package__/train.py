"""Define the loss and the evaluation for images: ``python -m PACKAGE.train``. ``loop.py`` has the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Batch
from .config import Config
from .data import augment, load_data, mix
from .device import Precision
from .errors import exit_code
from .model import is_convolutional, make_model
from .run import run
from .scoring import Scoring
from .task import Limits, Metric, Task
from .training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="Train an image classifier.")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Create data, model, and loss of a run; call ``prepare`` first."""
    data = load_data(config)
    model = make_model(config, channels=data.channels, classes=len(data.classes), size=data.size)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        images = augment(images, shift=config.shift, flip=config.flip)
        if config.mixup or config.cutmix:
            targets = functional.one_hot(targets, len(data.classes)).float()
            images, targets = mix(images, targets, mixup=config.mixup, cutmix=config.cutmix)
        return functional.cross_entropy(model(images), targets, label_smoothing=config.label_smoothing)

    scoring = Scoring(data.validation, data.classes, config.batch_size)
    task = Task(
        model=model,
        train_data=data.train,
        train_size=len(data.train),
        loss=loss,
        evaluate=scoring.evaluate,
        metric=Metric("accuracy"),
        show=scoring.show,
        unit="images",
        in_memory=data.train.in_memory,
        channels_last=is_convolutional(model),
    )
    return Training(config, task, device, precision)


SMOKE = Limits(reach=0.9, control=0.3)  # five seeds: accuracy 0.96 to 0.98, control at most 0.17


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """The real model and real digits, but only for seconds; ``place``: device, precision, and run_dir."""
    return Config(
        **place, shuffle_labels=shuffled, shift=0, max_updates=60, batch_size=24, learning_rate=4e-3, log_every=5
    )


if __name__ == "__main__":
    sys.exit(exit_code(main, resumable=True))
