"""Prepare a run: choose device and precision, set the seeds, and configure torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import compat, distributed
from .checkpoint import seed_everything
from .device import Precision, ability_of, choose_device, choose_precision
from .settings import LoopConfig


def prepare(config: LoopConfig, say: Callable[[str], None]) -> tuple[torch.device, Precision]:
    """Choose device and precision, print the reason, and configure torch. Call it before the model: it seeds."""
    if config.deterministic:
        compat.make_deterministic()
    distributed.join(config.device)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, ability_of(device))
    compat.set_tf32(precision.name != "fp32" or config.precision == "auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = not config.deterministic
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    seed_everything(config.seed)
    processes = f", {distributed.ranks()} processes" if distributed.ranks() > 1 else ""
    say(f"device {device}{processes}, precision {precision.name}: {precision.reason}")
    return device, precision
