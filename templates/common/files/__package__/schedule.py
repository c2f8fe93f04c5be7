"""Compute the learning rate from the number of applied updates, so that a checkpoint needs no scheduler state."""

from __future__ import annotations

import math

import torch


def learning_rate(applied: int, *, peak: float, warmup: int, total: int, floor: float = 0.01) -> float:
    """Return the rate: linear warm-up over ``warmup`` updates, then a cosine down to ``floor * peak`` at ``total``."""
    if applied < warmup:
        return peak * (applied + 1) / warmup
    progress = min(1.0, (applied - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
