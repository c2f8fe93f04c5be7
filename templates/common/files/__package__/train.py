"""Train a model: ``python -m PACKAGE.train``. **Start reading here**: this is the complete training loop.

``data.py``, ``model.py``, and ``task.py`` define what is learned. ``engine/amp.py`` has the order of mixed precision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from .config import Config
from .data import load_data
from .engine import distributed
from .engine.amp import Batch
from .engine.device import Precision, prepare
from .engine.errors import exit_code
from .engine.optim import set_learning_rate
from .engine.options import parse
from .engine.run import Outcome, Run, Say, Training
from .model import make_model
from .task import SMOKE, Task, smoke_config

__all__ = ["SMOKE", "build", "fit", "main", "prepare", "smoke_config", "train", "train_step"]


def main(arguments: Sequence[str] | None = None) -> int:
    program, description = f"python -m {__package__}.train", "Train a model. See README.md for examples."
    outcome = train(parse(Config, arguments, program=program, description=description))
    if outcome.stopped_by in ("", "patience"):
        told = ", ".join(f"{name} {value:.4f}" for name, value in outcome.evaluation.items())
        distributed.say(f"done after {outcome.steps} steps ({outcome.skipped} skipped): validation {told}")
        distributed.say(f"state sha256 {outcome.state_hash}")
    return 0


def train(config: Config, say: Say = distributed.say) -> Outcome:
    """Train as configured, and return the result."""
    try:
        return fit(build(config, *prepare(config, say)), say)
    finally:
        distributed.leave()


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Create data, model, and task of a run; call ``prepare`` first, which seeds."""
    data = load_data(config)
    model = make_model(config, data.about)
    return Training(config, Task(config, data.about, device), data, model, device, precision)


def fit(training: Training, say: Say = distributed.say, *, draw: bool = True) -> Outcome:
    """Train to the end or until a signal arrives; resume first if ``--resume`` was passed."""
    config = training.config
    with Run(training, say) as run:
        while not run.stopping:
            for batches in training.groups():  # `grad_accum_steps` micro-batches make one step
                loss = train_step(training, batches)
                run.stepped(loss)
                if run.due(config.eval_every):
                    run.save(is_best=run.evaluate())
                elif run.due(config.save_every):
                    run.save()
                if run.stopping:
                    break
            run.end_epoch()
        return run.finish(draw=draw)


def train_step(training: Training, batches: Sequence[Batch]) -> Tensor:
    """Make one step and return its mean loss, still on the device."""
    task = training.task
    set_learning_rate(training.optimizer, training.learning_rate())
    loss = training.amp.update(
        lambda batch: task.loss(training.parallel, batch),
        batches,
        weight_of=task.weight,
        without_sync=training.without_sync,
    )
    training.advance(batches)
    return loss


if __name__ == "__main__":
    sys.exit(exit_code(main, resumable=True))
