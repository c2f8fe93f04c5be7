"""Define the loss and the evaluation for pixels: ``python -m PACKAGE.train``. ``loop.py`` has the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp, Batch
from .config import IGNORED, Config
from .data import Data, augment, load_data
from .device import Precision
from .distributed import share, total
from .errors import exit_code
from .model import UNet
from .pictures import draw_masks
from .run import run
from .task import Limits, Metric, Task
from .training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="Train a network that labels every pixel.")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Create data, model, and loss of a run; call ``prepare`` first."""
    data = load_data(config)
    classes = config.class_names

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images, masks = batch
        if config.flip:
            images, masks = augment(images, masks)
        scores = model(images)
        value = functional.cross_entropy(scores, masks, ignore_index=IGNORED)
        return value + config.dice * dice_loss(scores, masks) if config.dice else value

    task = Task(
        model=UNet(data.channels, len(classes), width=config.width, levels=config.levels),
        train_data=data.train,
        train_size=len(data.train),
        loss=loss,
        evaluate=lambda model, amp: evaluate(model, amp, data, classes, config.batch_size),
        metric=Metric("mean_iou"),
        show=lambda model, amp, run_dir: show(model, amp, data, run_dir),
        unit="images",
        in_memory=data.train.in_memory,
        channels_last=True,
    )
    return Training(config, task, device, precision)


def dice_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Return 1 minus the mean Dice coefficient of the classes, in fp32."""
    counted = (masks != IGNORED).unsqueeze(1)
    chances = scores.float().softmax(dim=1) * counted
    truth = functional.one_hot(masks.where(masks != IGNORED, torch.zeros_like(masks)), scores.shape[1])
    truth = truth.permute(0, 3, 1, 2) * counted
    overlap = (chances * truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * overlap + 1) / (chances.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1)).mean()


def evaluate(model: nn.Module, amp: Amp, data: Data, classes: Sequence[str], batch_size: int) -> dict[str, float]:
    """Return mean loss and accuracy over the pixels, the intersection over union of each class, and their mean."""
    device, count = next(model.parameters()).device, len(classes)
    sums = torch.zeros(1 + count * count, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    for indices in share(len(data.validation), batch_size):
        images, masks = (tensor.to(device) for tensor in data.validation[indices])
        with amp.autocast():
            scores = model(images)
            loss = functional.cross_entropy(scores, masks, ignore_index=IGNORED, reduction="sum")
        kept = masks != IGNORED
        pairs = masks[kept] * count + scores.argmax(dim=1)[kept]
        sums[0] += loss.to(sums)
        sums[1:] += torch.bincount(pairs, minlength=count * count).to(sums)
    loss_sum, *pairs_of_classes = total(sums)
    table = torch.tensor(pairs_of_classes, dtype=torch.float64).view(count, count)
    return {"loss": loss_sum / float(table.sum()), **scores_of(table, classes)}


def scores_of(table: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Compute the scores; rows of ``table`` are true classes. Classes neither present nor predicted are ignored."""
    hits = table.diagonal()
    union = table.sum(dim=0) + table.sum(dim=1) - hits
    by_class = {f"iou_{name}": float(hit / whole) for name, hit, whole in zip(classes, hits, union) if whole > 0}
    mean = sum(by_class.values()) / len(by_class)
    return {"mean_iou": mean, "pixel_accuracy": float(hits.sum() / table.sum()), **by_class}


def show(model: nn.Module, amp: Amp, data: Data, run_dir: Path) -> list[str]:
    """Draw a few validation images with their true and predicted masks as ``masks.png``."""
    device = next(model.parameters()).device
    images, masks = data.validation[list(range(min(6, len(data.validation))))]
    with amp.autocast():
        predicted = model(images.to(device)).argmax(dim=1).cpu()
    drawn = draw_masks(images, masks, predicted, run_dir / "masks.png")
    return [f"images, true and predicted masks: {run_dir / 'masks.png'}"] if drawn else []


# four seeds: 0.92 to 0.97, control 0.31, ratio 3.8 to 7
SMOKE = Limits(reach=0.75, control=0.5, loss_ratio=2.5, shuffled="masks")


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """The real model and real coins, but only for seconds; ``place``: device, precision, and run_dir."""
    return Config(
        **place,
        shuffle_labels=shuffled,
        crop=32,
        width=8,
        flip=False,
        max_updates=80,
        batch_size=8,
        learning_rate=1e-2,
        log_every=5,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main, resumable=True))
