"""Define the loss and the evaluation for text: ``python -m PACKAGE.train``. ``loop.py`` has the training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .amp import Amp, Batch
from .checkpoint import write_aside
from .config import Config
from .data import Data, load_data
from .device import Precision
from .distributed import share, total
from .errors import exit_code
from .model import GPT
from .run import run
from .sample import Options, generate
from .task import Limits, Metric, Task
from .training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    return run(Config, build, arguments, description="Train a language model.")


def build(config: Config, device: torch.device, precision: Precision) -> Training:
    """Create data, model, and loss of a run; call ``prepare`` first."""
    data = load_data(config)

    net = GPT(data.tokenizer.size + 1, config)

    def show(model: nn.Module, amp: Amp, run_dir: Path) -> list[str]:
        text = sample_text(net, amp, data)
        write_aside(run_dir / "sample.txt", lambda file: file.write(text.encode()))
        lines = ["".join(sign if sign.isprintable() else "?" for sign in line) for line in text.splitlines()[:8]]
        return [f"sample: {run_dir / 'sample.txt'}", *(f"  | {line}" for line in lines)]

    task = Task(
        model=net,
        train_data=data.train,
        train_size=len(data.train),
        loss=lambda model, batch: next_token_loss(model, batch, "mean"),
        evaluate=lambda model, amp: evaluate(model, amp, data, device, config),
        metric=Metric("bits_per_byte", higher_is_better=False),
        show=None if config.fsdp else show,  # the first rank has only a part of the weights
        unit="tokens",
        units_per_sample=config.context,
        fsdp_blocks=tuple(net.blocks) if config.fsdp else (),
    )
    return Training(config, task, device, precision)


def next_token_loss(model: nn.Module, batch: Batch, reduction: str) -> Tensor:
    tokens, targets = batch
    return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction=reduction)


def evaluate(model: nn.Module, amp: Amp, data: Data, device: torch.device, config: Config) -> dict[str, float]:
    """Return the mean loss per token, and the bits per byte of text, which are comparable between tokenizers."""
    windows = min(config.validation_windows, len(data.validation))
    loss = torch.zeros(1, device=device)
    for numbers in share(windows, config.batch_size):
        spread = [number * len(data.validation) // windows for number in numbers]
        batch = tuple(tensor.to(device) for tensor in data.validation[spread])
        with amp.autocast():
            loss += next_token_loss(model, batch, "sum").float()
    mean = total(loss)[0] / (windows * config.context)
    return {"loss": mean, "bits_per_byte": mean / math.log(2) / data.bytes_per_token}


def sample_text(model: GPT, amp: Amp, data: Data) -> str:
    """Continue the first words of the validation text."""
    prompt = data.validation.cut(0, 24).tolist()
    with amp.autocast():
        numbers = generate(model, prompt, Options(tokens=200), size=data.tokenizer.size)
    return data.tokenizer.decode([number for number in prompt + numbers if number < data.tokenizer.size])


# five seeds: 3.74 to 3.98, control 4.81 to 4.82
SMOKE = Limits(reach=4.2, control=4.6, loss_ratio=1.8, shuffled="text")


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """A small model and real text, but only for seconds; ``place``: device, precision, and run_dir."""
    return Config(
        **place,
        shuffle_text=shuffled,
        size="nano",
        context=32,
        max_updates=200,
        batch_size=16,
        learning_rate=1e-2,
        log_every=5,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main, resumable=True))
