"""Train: ``python -m PACKAGE.train``. Here stands what is particular to texts; ``loop.py`` is the loop itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp, Batch
from .config import Config
from .confusion import draw_confusion, f1_scores, scores_of
from .data import Data, load_data
from .device import Precision
from .distributed import share, total
from .errors import exit_code
from .model import make_model
from .run import run
from .task import Limits, Metric, Task
from .training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="train a text classifier")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Data, model and loss of one run; ``prepare`` has gone before."""
    data = load_data(config)
    weights = class_weights(data, balanced=config.class_weights).to(device)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        tokens, labels = batch
        losses = functional.cross_entropy(
            model(tokens), labels, label_smoothing=config.label_smoothing, reduction="none"
        )
        return (losses * weights[labels]).mean()

    task = Task(
        model=make_model(config, classes=len(data.classes), pad=data.pad),
        train_data=data.train,
        train_size=len(data.train),
        loss=loss,
        evaluate=lambda model, amp: evaluate(model, amp, data, config.batch_size),
        metric=Metric("accuracy"),
        show=lambda model, amp, run_dir: show(model, amp, data, config.batch_size, run_dir),
        unit="texts",
    )
    return Training(config, task, device, precision)


def class_weights(data: Data, *, balanced: bool) -> Tensor:
    """One weight for each class, 1 in the mean over the training texts, so that the loss keeps its size."""
    counts = torch.bincount(data.train.labels, minlength=len(data.classes))
    return len(data.train) / (len(data.classes) * counts) if balanced else torch.ones(len(data.classes))


def evaluate(model: nn.Module, amp: Amp, data: Data, batch_size: int) -> dict[str, float]:
    """Mean loss, accuracy and macro F1 over the validation texts."""
    loss, *counts = total(_count(model, amp, data, share(len(data.validation), batch_size)))
    return {"loss": loss / len(data.validation), **scores_of(_table(counts, data))}


def show(model: nn.Module, amp: Amp, data: Data, batch_size: int, run_dir: Path) -> list[str]:
    """The table of confusions as ``confusion.png``, and the F1 score of the classes that fare worst."""
    size = len(data.validation)
    batches = (list(range(start, min(start + batch_size, size))) for start in range(0, size, batch_size))
    table = _table(_count(model, amp, data, batches).tolist()[1:], data)
    worst = sorted(zip(f1_scores(table).tolist(), data.classes))[:5]
    lines = ["lowest F1: " + ", ".join(f"{name} {score:.3f}" for score, name in worst)]
    if draw_confusion(table, data.classes, run_dir / "confusion.png"):
        lines.append(f"confusions: {run_dir / 'confusion.png'}")
    return lines


def _count(model: nn.Module, amp: Amp, data: Data, batches: Iterable[list[int]]) -> Tensor:
    """The summed loss, then how often each class was taken for each."""
    device, classes = next(model.parameters()).device, len(data.classes)
    sums = torch.zeros(1 + classes * classes, device=device)
    for indices in batches:
        tokens, labels = (tensor.to(device) for tensor in data.validation[indices])
        with amp.autocast():
            scores = model(tokens)
            sums[0] += functional.cross_entropy(scores, labels, reduction="sum").float()
        sums[1:] += torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes * classes)
    return sums


def _table(counts: list[float], data: Data) -> Tensor:
    return torch.tensor(counts).view(len(data.classes), len(data.classes))


SMOKE = Limits(reach=0.55, control=0.35, loss_ratio=1.8)  # five seeds: 0.66 to 0.69, control at most 0.27


def smoke_config(*, device: str, precision: str, run_dir: Path, shuffled: bool) -> Config:
    """The real model and real texts, for seconds instead of minutes."""
    return Config(
        device=device,
        precision=precision,
        run_dir=run_dir,
        shuffle_labels=shuffled,
        max_updates=80,
        batch_size=32,
        learning_rate=1e-2,
        dropout=0.0,
        log_every=5,
        model="nano",
        context=64,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
