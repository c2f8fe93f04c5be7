"""Train: ``python -m PACKAGE.train``. Here stands what is particular to images; ``loop.py`` is the loop itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp, Batch
from .config import Config
from .confusion import draw_confusion, scores_of
from .data import Data, augment, load_data, mix
from .device import Precision
from .distributed import share, total
from .errors import exit_code
from .model import is_convolutional, make_model
from .run import run
from .task import Limits, Metric, Task
from .training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="train an image classifier")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Data, model and loss of one run; ``prepare`` has gone before."""
    data = load_data(config)
    model = make_model(config, channels=data.channels, classes=len(data.classes), size=data.size)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        images = augment(images, shift=config.shift, flip=config.flip)
        if config.mixup or config.cutmix:
            targets = functional.one_hot(targets, len(data.classes)).float()
            images, targets = mix(images, targets, mixup=config.mixup, cutmix=config.cutmix)
        return functional.cross_entropy(model(images), targets, label_smoothing=config.label_smoothing)

    task = Task(
        model=model,
        train_data=data.train,
        train_size=len(data.train),
        loss=loss,
        evaluate=lambda model, amp: evaluate(model, amp, data, config.batch_size),
        metric=Metric("accuracy"),
        show=lambda model, amp, run_dir: show(model, amp, data, config.batch_size, run_dir),
        unit="images",
        in_memory=data.train.in_memory,
        channels_last=is_convolutional(model),
    )
    return Training(config, task, device, precision)


def evaluate(model: nn.Module, amp: Amp, data: Data, batch_size: int) -> dict[str, float]:
    """Mean loss, accuracy and macro F1 over the validation images."""
    loss, *counts = total(_count(model, amp, data, share(len(data.validation), batch_size)))
    return {"loss": loss / len(data.validation), **scores_of(_table(counts, data))}


def show(model: nn.Module, amp: Amp, data: Data, batch_size: int, run_dir: Path) -> list[str]:
    """The table of confusions as ``confusion.png``, and the classes that were most often taken for another."""
    size = len(data.validation)
    batches = (list(range(start, min(start + batch_size, size))) for start in range(0, size, batch_size))
    table = _table(_count(model, amp, data, batches).tolist()[1:], data)
    wrong = [(int(table[row, column]), row, column) for row, column in table.nonzero().tolist() if row != column]
    worst = [
        f"{data.classes[row]} as {data.classes[column]} ({count} of {int(table[row].sum())})"
        for count, row, column in sorted(wrong, reverse=True)[:3]
    ]
    lines = [f"most often wrong: {', '.join(worst) or 'nothing'}"]
    if draw_confusion(table, data.classes, run_dir / "confusion.png"):
        lines.append(f"confusions: {run_dir / 'confusion.png'}")
    return lines


def _count(model: nn.Module, amp: Amp, data: Data, batches: Iterable[list[int]]) -> Tensor:
    """The summed loss, then how often each class was taken for each."""
    device, classes = next(model.parameters()).device, len(data.classes)
    sums = torch.zeros(1 + classes * classes, device=device)
    for indices in batches:
        images, labels = (tensor.to(device) for tensor in data.validation[indices])
        with amp.autocast():
            scores = model(images)
            sums[0] += functional.cross_entropy(scores, labels, reduction="sum").float()
        sums[1:] += torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes * classes)
    return sums


def _table(counts: list[float], data: Data) -> Tensor:
    return torch.tensor(counts).view(len(data.classes), len(data.classes))


SMOKE = Limits(reach=0.9, control=0.3)  # measured with five seeds: accuracy 0.96 to 0.98, control at most 0.17


def smoke_config(*, device: str, precision: str, run_dir: Path, shuffled: bool) -> Config:
    """The real model and real digits, for seconds instead of minutes."""
    return Config(
        device=device,
        precision=precision,
        run_dir=run_dir,
        shuffle_labels=shuffled,
        max_updates=60,
        batch_size=24,
        learning_rate=4e-3,
        log_every=5,
        shift=0,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
