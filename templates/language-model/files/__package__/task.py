"""Define what is learned: the loss, the evaluation, and the limits of the smoke test."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import sharding
from .config import Config
from .engine import distributed, run
from .engine.amp import Batch
from .engine.checkpoint import write_text
from .engine.device import Precision
from .engine.run import Metric
from .engine.smoke import Limits
from .model import GPT
from .predict import generate
from .texts import open_tokenizer


class Task(run.Task):
    metric = Metric("bits_per_byte", higher_is_better=False)
    unit = "tokens"

    def __init__(self, config: Config, about: dict[str, Any], device: torch.device) -> None:
        self.config, self.about, self.device = config, about, device
        self.units_per_sample = config.context

    def place(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Move the model to its device, convert it for fp8, and shard it, as configured."""
        model = super().place(model, device, precision)
        if precision.name == "fp8":
            sharding.convert(model)
        if self.config.fsdp:
            sharding.shard(model, list(cast(GPT, model).blocks), precision)
        return model

    def state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        return (sharding.state if self.config.fsdp else super().state)(model, optimizer)

    def load_state(self, *arguments: Any) -> None:
        (sharding.load_state if self.config.fsdp else super().load_state)(*arguments)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over the tokens; every window has equally many."""
        return next_token_loss(model, batch, "mean")

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the mean loss per token, and the bits per byte of text, which are comparable between tokenizers."""
        sums = torch.zeros(2, dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        for batch in batches:
            sums += torch.stack([next_token_loss(model, batch, "sum").to(sums), sums.new_tensor(batch[1].numel())])
        loss, tokens = distributed.total(sums)
        return {"loss": loss / tokens, "bits_per_byte": loss / tokens / math.log(2) / self.about["bytes_per_token"]}

    def show(self, model: nn.Module, batches: Iterable[Batch], run_dir: Path) -> list[str]:
        """Continue the first words of the validation text into ``sample.txt``."""
        prompt, tokenizer = self.about["prompt"], open_tokenizer(self.about["tokenizer"])
        numbers = prompt + generate(cast(GPT, model), prompt, end=self.about["end"], tokens=200)
        text = tokenizer.decode([number for number in numbers if number < self.about["end"]])
        write_text(run_dir / "sample.txt", text)
        lines = ["".join(sign if sign.isprintable() else "?" for sign in line) for line in text.splitlines()[:8]]
        return [f"sample: {run_dir / 'sample.txt'}", *(f"  | {line}" for line in lines)]


def next_token_loss(model: nn.Module, batch: Batch, reduction: str) -> Tensor:
    tokens, successors = batch
    return functional.cross_entropy(model(tokens).flatten(0, 1), successors.flatten(), reduction=reduction)


# five seeds: 3.74 to 3.98, control 4.81 to 4.82
SMOKE = Limits(reach=4.2, control=4.6, loss_ratio=1.8, shuffled="text")


def smoke_config(*, shuffled: bool, **place: Any) -> Config:
    """A small model and real text, but only for seconds; ``place``: device, precision, and run_dir."""
    size: dict[str, Any] = {"size": "nano", "context": 32, "batch_size": 16, "val_windows": 200}
    return Config(**place, **size, control=shuffled, max_steps=200, eval_every=90, lr=1e-2, log_every=5)
